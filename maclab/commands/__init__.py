"""The simulated commands: one small module each, over the shared model of the Mac.

A module has `INFO` (a `CommandInfo`, or a list of them when several names share the code) and
`main(ctx) -> int`, where `ctx` is the `Context` of maclab.machine.context. `REGISTRY` maps a command's name
to its entry; PID 1 of a simulated Mac imports this package once and runs `run(ctx)` in a forked child per
command.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

from maclab.commands.info import CommandInfo

if TYPE_CHECKING:
    from maclab.machine.context import Context

__all__ = ["MODULES", "REGISTRY", "CommandInfo", "paths", "run"]


def _modules() -> dict[str, ModuleType]:
    found = {}
    for package_name in ("maclab.commands", "maclab.commands.bsd"):
        package = importlib.import_module(package_name) if package_name != __name__ else None
        path = package.__path__ if package else __path__
        for item in pkgutil.iter_modules(path):
            if item.name.startswith("_") or item.name in ("info",):
                continue
            module = importlib.import_module(f"{package_name}.{item.name}")
            if hasattr(module, "INFO"):
                found[module.__name__] = module
    return found


MODULES: dict[str, ModuleType] = _modules()
"""Modules with simulated commands by their full name."""


def _registry() -> dict[str, CommandInfo]:
    entries: dict[str, CommandInfo] = {}
    for name, module in MODULES.items():
        infos = module.INFO if isinstance(module.INFO, list) else [module.INFO]
        for info in infos:
            if info.name in entries:
                raise ValueError(f"{info.name} is claimed by {entries[info.name].module} and {name}")
            object.__setattr__(info, "module", name)
            entries[info.name] = info
    return dict(sorted(entries.items()))


REGISTRY: dict[str, CommandInfo] = _registry()


def paths() -> list[str]:
    """Where macOS has the simulated commands."""
    return [path for info in REGISTRY.values() for path in info.paths]


def run(ctx: Context) -> int:
    """Run the command that `ctx.argv[0]` names and return its exit status (127 when there is none of that
    name).
    """
    name = ctx.argv[0].rpartition("/")[2]
    info = REGISTRY.get(name)
    if info is None:
        ctx.stderr.write(f"{name}: simulated Mac: command is not simulated\n")
        return 127
    status = MODULES[info.module].main(ctx)
    return int(status or 0)
