# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""The programs of ds4-fleet that launchd and sshd start on a Mac: `ds4agent WORD [ARGUMENTS]`."""

from __future__ import annotations

import importlib
import sys

#: {word: module whose `main(arguments)` is run and gives the exit status}
PROGRAMS = {
    "fetch": "weights.fetch",
    "serve-chunks": "weights.seed",
    "switch": "switch.carry_out",
    "watch": "watchdog.memory",
    "jump": "tunnel.jump",
    "observe": "observe.parts",
    "qualify": "qualify.program",
}


def main(arguments: list[str]) -> int:
    """Runs a program; 64 (EX_USAGE) for a word that none has."""
    if not arguments or arguments[0] not in PROGRAMS:
        sys.stderr.write("usage: ds4agent %s [ARGUMENTS]\n" % " | ".join(PROGRAMS))
        return 64
    program = importlib.import_module(f"{__package__}.{PROGRAMS[arguments[0]]}")
    return int(program.main(arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
