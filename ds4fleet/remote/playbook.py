"""The one way to start a playbook: with the fleet's configuration, and with its Macs counted."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Host, ansible_command, ansible_environment
from ds4fleet.layout import COLLECTION, FLEET

#: Names the descriptor that gets the hosts which a run reached (playbooks/callback_plugins/ds4_reached.py).
REACHED_VARIABLE = "DS4_RUN_REACHED"
#: What Ansible ends with when all is well, and when it tried nothing.
NOTHING_FAILED = (0, 1)

Values = Mapping[str, Any] | Path


@dataclass
class Run:
    """A playbook at work. met: after its end, the Macs that it reached or that did not answer it."""

    process: subprocess.Popen[Any]
    met: set[str] = field(default_factory=set)

    @property
    def status(self) -> int:
        """The exit status, once it has ended."""
        return int(self.process.returncode)


def command(name: str, hosts: Sequence[str] | None, values: Values | None = None) -> list[str]:
    """The line that runs the playbook <name> of the collection in the fleet's folder, with
    `ansible_environment`."""
    of_the_checkout = FLEET == COLLECTION
    words = [
        *ansible_command("ansible-playbook"),
        f"playbooks/{name}.yml" if of_the_checkout else f"ds4.fleet.{name}",
    ]
    if hosts is not None:
        words += ["-l", ",".join(hosts)]
    if values is not None:
        given = f"@{values.absolute()}" if isinstance(values, Path) else json.dumps(dict(values))
        words += ["-e", given]
    return words


@contextlib.contextmanager
def running(
    name: str,
    hosts: Sequence[str] | None,
    values: Values | None = None,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    **options: Any,
) -> Iterator[Run]:
    """Starts playbooks/<name>.yml on these Macs; waits for its end, and ends it where the caller fails.

    hosts: None for all that the playbook is for. values: extra variables, or the file that holds them.
    environment: beside one's own. options: of Popen.
    Raises OperatorError where it is to run on no Mac, and where it failed nowhere as it met none.
    """
    if hosts is not None and not hosts:
        raise OperatorError(f"No Mac is selected for playbooks/{name}.yml.", exit_code=EXIT_USAGE)
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            [*command(name, hosts, values), *arguments],
            cwd=FLEET,
            env={**ansible_environment(), **(environment or {}), REACHED_VARIABLE: str(told.fileno())},
            pass_fds=(*pass_fds, told.fileno()),
            **options,
        )
        found = Run(process)
        try:
            yield found
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        found.met = _met(told)
    if not found.met and found.status in NOTHING_FAILED:
        of_whom = f" of {', '.join(hosts)}" if hosts else ""
        raise OperatorError(f"playbooks/{name}.yml reached no Mac{of_whom}; nothing was done.")


def run(
    name: str, hosts: Sequence[str] | None, values: Values | None = None, *arguments: str, **options: Any
) -> int:
    """Runs a playbook on these Macs; its exit status. As `running`, and all of them are to be met."""
    with running(name, hosts, values, *arguments, **options) as found:
        pass
    left_out = [host for host in hosts or () if host not in found.met]
    if left_out and found.status == 0:
        raise OperatorError(
            f"playbooks/{name}.yml left out {', '.join(left_out)}: Macs of no region of the inventory."
        )
    return found.status


def play(name: str, hosts: Sequence[Host], values: Values, *, quiet: bool = False) -> int:
    """The same for Macs of the inventory; quiet: without its output."""
    return run(name, [host.name for host in hosts], values, stdout=subprocess.DEVNULL if quiet else None)


def _met(told: IO[bytes]) -> set[str]:
    told.seek(0)
    counts = [json.loads(line) for line in told.read().splitlines()]
    return {host for count in counts for host in (*count["reached"], *count["silent"])}
