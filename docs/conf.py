"""How the pages in this folder become a site: `make docs` (Sphinx reads this file)."""

project = "ds4-fleet"
author = "ds4-fleet contributors"
project_copyright = "2026, ds4-fleet contributors"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = "ds4-fleet"
# Nothing is loaded from elsewhere, so the site reads the same without a network.
html_copy_source = False

# A link that leads nowhere stops the build (`make docs` turns warnings into errors).
nitpicky = True
myst_heading_anchors = 4
# The lines between a page's columns are links of the repository as well: GitHub shows these pages too.
suppress_warnings = ["myst.header"]
exclude_patterns = ["_build"]
