"""How verbs reach the Macs: one ssh to look, one playbook to change something."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ds4fleet import playbook
from ds4fleet.fleet import Host
from ds4fleet.render import role_defaults

#: A cold login over an ocean takes 8 to 9 round trips; beyond this a Mac counts as silent.
CONNECT_TIMEOUT_S = 20
_AT_ONCE = 32


def root(host: Host) -> str:
    """`ds4_root` of the Mac."""
    return str({**role_defaults(), **host.vars}["ds4_root"])


def ssh_argv(host: Host, *words: str) -> list[str]:
    """The command line of ssh to the administrator's account; words: more options, before the address."""
    argv = ["ssh", *host.ssh_options(), "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
    argv += ["-p", str(host.port)]
    if host.private_key:
        argv += ["-i", str(host.private_key), "-o", "IdentitiesOnly=yes"]
    return [*argv, *words, f"{host.user}@{host.address}" if host.user else host.address]


def ask(hosts: Sequence[Host], scripts: Sequence[str]) -> list[str]:
    """What the Macs' /bin/sh say to scripts that only read, all at once; "" for one that does not answer."""
    with ThreadPoolExecutor(max(1, min(len(hosts), _AT_ONCE))) as pool:
        return list(pool.map(_ask, hosts, scripts))


def _ask(host: Host, script: str) -> str:
    argv = [*ssh_argv(host), "/bin/sh -s"]
    try:
        done = subprocess.run(
            argv, input=script, capture_output=True, text=True, timeout=3 * CONNECT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def play(name: str, hosts: Sequence[Host], values: Mapping[str, Any], *, quiet: bool = False) -> int:
    """Runs a playbook on these Macs; its exit status. Raises OperatorError where it left one out."""
    out = subprocess.DEVNULL if quiet else None
    return playbook.run(name, [host.name for host in hosts], values, stdout=out)
