"""How ssh would reach a Mac, in ssh's own words (`ssh -G`): its configuration files count there, too."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4agent.mac import output
from ds4fleet.errors import EXIT_MISSING, EXIT_USAGE, OperatorError
from ds4fleet.inventory.connection import WITH_ARGUMENT
from ds4fleet.inventory.fleet import Host

_TIMEOUT_S = 60
_SAID_BYTES = 256 * 1024


@dataclass(frozen=True)
class Effective:
    """What ssh makes of its arguments and its configuration: where it connects to, and by which bastion (the
    words after ProxyJump, or the destination of the ssh of a ProxyCommand; "" for none)."""

    hostname: str
    port: int
    via: str = ""


def effective(host: Host) -> Effective:
    """How ssh would reach a Mac of the inventory. Raises OperatorError where ssh refuses its arguments."""
    way = host.reached
    said = settled(host.name, [way.executable, *host.ssh_options(), *way.reaching(), "-G", way.address])
    return Effective(said.get("hostname", way.address), int(said.get("port", 22)), bastion(said))


def settled(name: str, argv: Sequence[str]) -> dict[str, str]:
    """What `ssh -G` prints for a command line that has it, by option in lower case."""
    try:
        done = output.run(list(argv), _TIMEOUT_S, max_bytes=_SAID_BYTES)
    except OSError as error:
        raise OperatorError(f"ssh cannot be run: {error.strerror}", exit_code=EXIT_MISSING) from None
    if done.returncode != 0:
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = words[-1] if words else "no reason given"
        raise OperatorError(f"{name}: ssh refuses its arguments: {reason}", exit_code=EXIT_USAGE)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def bastion(said: Mapping[str, str]) -> str:
    """The bastion in what `settled` returns, "" for none."""
    jump = said.get("proxyjump", "none")
    if jump != "none":
        return jump
    command = said.get("proxycommand", "none")
    if command == "none":
        return ""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    words = words[1:] if words[:1] == ["exec"] else words
    if Path(words[0]).name != "ssh":
        return Path(words[0]).name
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        taken = 2 if rest[0][1:2] in WITH_ARGUMENT and len(rest[0]) == 2 else 1
        rest = rest[taken:]
    return rest[0] if rest else "ssh"
