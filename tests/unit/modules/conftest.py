"""Role module_utils are found on a Mac as ansible.module_utils.*; here too."""

from pathlib import Path

import ansible.module_utils

ROLE = Path(__file__).parents[3] / "roles" / "ds4"
FOLDER = str(ROLE / "module_utils")
if FOLDER not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(FOLDER)
