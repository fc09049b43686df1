"""What can be made to go wrong on a simulated Mac. The register is data/faults.yml.

Switched by `fab lab fault <host> <fault>` (and `--off`) or `Lab.fault`. Where a fault acts: `command` = a
simulated command looks at `ctx.faults`; `launchd` = PID 1; `power`, `link` = the lab; `world` = the servers
outside, for this Mac's requests; `engine` = the stand-in engine (it finds the file /.lab/run/faults/<name>).
`python -m maclab.faults` writes docs/lab-faults.md from it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from maclab.data_files import load_yaml
from maclab.errors import EXIT_USAGE, LabError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "lab-faults.md"
_REGISTER = Path(__file__).resolve().parents[1] / "data" / "faults.yml"
_HEAD = """\
# Faults of a simulated Mac

Made from maclab/data/faults.yml by `python -m maclab.faults`; do not edit.

`fab lab fault HOST NAME` switches one on, `--off` switches it off; it stays over reboots. `fab lab faults`
lists them. Tests do the same with `Lab.fault`.

| fault | what the Mac does | what ds4-fleet does | acts in | seen | held by, in tests/integration |
| --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Fault:
    """One fault: where it acts, what the Mac then does, what the role does about it, and who saw it."""

    name: str
    where: str
    does: str
    role: str
    held_by: str
    """`file::function` below tests/integration: the test that has ds4-fleet at work while the fault is on."""
    source: str
    momentary: bool = False
    """It happens once, at the moment it is asked for, and cannot be switched off."""


FAULTS: dict[str, Fault] = {entry["name"]: Fault(**entry) for entry in load_yaml(_REGISTER)}
"""Every fault by name."""


def find(name: str) -> Fault:
    """The fault of that name; raises LabError that names the nearest one."""
    wanted = name.replace("_", "-")
    if wanted in FAULTS:
        return FAULTS[wanted]
    near = difflib.get_close_matches(wanted, FAULTS, 1)
    hint = f"did you mean {near[0]}?" if near else "`fab lab faults` lists them"
    raise LabError(f"there is no fault {name}: {hint}", exit_code=EXIT_USAGE)


def document() -> str:
    """The text of docs/lab-faults.md."""
    rows = [
        f"| `{f.name}` | {f.does} | {f.role} | {f.where} | {f.source} | `{f.held_by}` |"
        for f in FAULTS.values()
    ]
    return _HEAD + "\n".join(rows) + "\n"
