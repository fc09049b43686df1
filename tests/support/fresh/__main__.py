"""The command line of scripts/fresh, which says what it does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ds4fleet.errors import EXIT_USAGE, OperatorError
from tests.support.fresh import machine, system

CACHE = "/var/cache/ds4-fleet"
DISK_GB = "12"


def main(words: list[str]) -> int:
    """RELEASE [COMMAND ...]: the command's exit status, or that of an OperatorError. --other: only names the
    release that the checks take.
    """
    if words == ["--other"]:
        print(machine.other_release(machine.this_one()[1]))
        return 0
    try:
        return system.run(order_of(words))
    except OperatorError as error:
        print(f"fresh: {error.sentence}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def order_of(words: list[str]) -> system.Order:
    """What a command line asks for; raises OperatorError."""
    if not words or words[0].startswith("-"):
        raise OperatorError("say which release: scripts/fresh trixie [COMMAND ...]", exit_code=EXIT_USAGE)
    size = os.environ.get("DS4_FRESH_GB", DISK_GB)
    if not size.isdecimal() or not 2 <= int(size) <= 1000:
        raise OperatorError(f"DS4_FRESH_GB: '{size}' is not a number from 2 to 1000", exit_code=EXIT_USAGE)
    system.check()
    return system.Order(
        release=words[0],
        sources=machine.sources(words[0], os.environ),
        command=words[1:] or ["make", "demo"],
        folder=Path(os.environ.get("DS4_FRESH_CACHE", CACHE)),
        disk_bytes=int(size) * 10**9,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
