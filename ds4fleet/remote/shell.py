"""How verbs reach the Macs: one ssh to look, one playbook to change something."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ds4agent.mac import output
from ds4fleet.errors import EXIT_MISSING, OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import playbook

#: A cold login over an ocean takes 8 to 9 round trips; beyond this a Mac counts as silent.
CONNECT_TIMEOUT_S = 20
#: A whole answer is there by then, or the Mac is silent too.
ANSWER_TIMEOUT_S = 3 * CONNECT_TIMEOUT_S
#: What a script of ours asks for has some KiB, a journal with its saved files some hundred.
ANSWER_BYTES = 4 * 1024 * 1024
_AT_ONCE = 32
MARK = "@@"


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
        return [answer for answer, _why in pool.map(hear, hosts, scripts)]


def hear(host: Host, script: str) -> tuple[str, str]:
    """(what a Mac's /bin/sh says to a script that only reads, why it is not all). Raises OperatorError where
    this machine has no ssh.

    Every MARK in the answer is one of the script's own: whatever a file or an engine says cannot be taken for
    the answer to another question.
    """
    token = f"{MARK}{secrets.token_hex(8)}-"
    try:
        done = output.run(
            [*ssh_argv(host), "/bin/sh -s"],
            ANSWER_TIMEOUT_S,
            stdin=script.replace(MARK, token),
            max_bytes=ANSWER_BYTES,
        )
    except OSError as error:
        raise OperatorError(f"ssh cannot be run: {error.strerror}", exit_code=EXIT_MISSING) from None
    if done.cut:
        late = done.cut == output.LATE
        return "", "logged in, then silent" if late else f"it said more than {ANSWER_BYTES:,} bytes"
    own = (part.replace(MARK, "@ @") for part in done.stdout.split(token))
    return MARK.join(own), (done.stderr.strip().splitlines() or ["no answer"])[-1]


def play(name: str, hosts: Sequence[Host], values: Mapping[str, Any], *, quiet: bool = False) -> int:
    """Runs a playbook on these Macs; its exit status. Raises OperatorError where it left one out."""
    out = subprocess.DEVNULL if quiet else None
    return playbook.run(name, [host.name for host in hosts], values, stdout=out)
