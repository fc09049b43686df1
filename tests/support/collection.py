"""Modules of the collection as Python imports them, with the ds4agent that the tests import.

Ansible knows the package below the collection, the controller by its own name: two copies would each have
state and classes of their own.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COLLECTION = "ansible_collections.ds4.fleet.plugins"
_AGENT = f"{COLLECTION}.module_utils.ds4agent"


class _OneAgent(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        ours = name == _AGENT or name.startswith(f"{_AGENT}.")
        return ModuleSpec(name, self) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(f"ds4agent{spec.name[len(_AGENT) :]}")

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed under its own name."""


if not any(isinstance(one, _OneAgent) for one in sys.meta_path):
    sys.meta_path.insert(0, _OneAgent())


def module(name: str) -> ModuleType:
    """The module `name`, such as ds4_files."""
    return importlib.import_module(f"{COLLECTION}.modules.{name}")
