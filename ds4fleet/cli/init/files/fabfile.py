"""The verbs of `fab` for this fleet. Tasks of your own are added before `check`: ns.add_task(...)."""

from ds4fleet.cli.command_line import check
from ds4fleet.cli.verbs import ns

check(ns)
