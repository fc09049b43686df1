"""What can be made to go wrong on a simulated Mac: the register of faults.

`Lab.fault` and `maclab fault MAC FAULT` (`--off`) switch them. To add one, write an object into the module of
the part that misbehaves: that puts it into the register. If a command, launchd or the engine must behave
differently, it asks the object whether it is on.
"""

from __future__ import annotations

import difflib

from maclab.errors import EXIT_USAGE, LabError
from maclab.faults import commands, engine, launchd, links, power, upstreams
from maclab.faults.base import Fault

__all__ = ["FAULTS", "Fault", "find"]

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for module in (launchd, commands, engine, links, upstreams, power)
    for fault in vars(module).values()
    if isinstance(fault, Fault)
}
"""Every fault by name."""


def find(name: str) -> Fault:
    """The fault of that name; raises LabError that names the nearest one."""
    wanted = name.replace("_", "-")
    if wanted in FAULTS:
        return FAULTS[wanted]
    near = difflib.get_close_matches(wanted, FAULTS, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FAULTS)}"
    raise LabError(f"there is no fault {name}: {hint}", exit_code=EXIT_USAGE)
