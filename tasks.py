"""The verbs of `fab` in a checkout, from ds4fleet.cli.verbs; a fleet's own fabfile.py is like this one."""

from ds4fleet.cli.command_line import check
from ds4fleet.cli.verbs import ns

check(ns)
