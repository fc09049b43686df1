"""The ssh command under a tunnel, and what its words mean.

Why the options are as they are: docs/tunnels.md. The one that is easily lost: a tunnel asks for a terminal
(`-tt`) although there is no one to type. OpenSSH sets TCP_NODELAY only on connections with an interactive
session, and without it sshd's side of the connection collects small streamed events for a whole round trip.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache

from . import endings, local_network
from .spec import TunnelSpec

SSH = "/usr/bin/ssh"  # the system's, on macOS and on Linux alike
ALIVE_INTERVAL_S = 1  # with three missed answers a silent peer gets nothing new, between 3 and 4 s
ALIVE_COUNT = 3
PATIENCE_S = 45  # how long ssh waits on a silent line, for the sake of what it carries
CONNECT_TIMEOUT_S = 15  # a login costs 8-9 round trips; 15 s leaves room for 300 ms ones and a slow Mac
# Apple silicon and x86 do AES-GCM in hardware; `^` only moves them to the front of what both ends offer.
FAST_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
OBSCURE_SINCE = (9, 5)  # ObscureKeystrokeTiming appeared in OpenSSH 9.5 (its release notes)
# What an account without a forced command runs; the tunnel account of the role has its own and ignores it.
WAIT_COMMAND = "exec sleep 2147483647"


def parse_version(banner: str) -> tuple[int, int]:
    """(major, minor) from `ssh -V` output such as `OpenSSH_9.8p1, LibreSSL 3.3.6`; (0, 0) when unknown."""
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", banner)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


@cache
def client_version(ssh: str = SSH) -> tuple[int, int]:
    """Version of the local ssh client; (0, 0) when it cannot be run."""
    try:
        done = subprocess.run([ssh, "-V"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    return parse_version(done.stderr + done.stdout)


def command(
    spec: TunnelSpec, version: tuple[int, int], ipv6: bool = True, terminal: bool = True, ssh: str = SSH
) -> list[str]:
    """The whole argument vector of the ssh child.

    spec     the tunnel
    version  of the client (`client_version`): an option that it does not know would stop it
    ipv6     also listen on ::1; False where this machine has no IPv6 loopback
    terminal ask for a terminal; False for an account that is known to refuse one
    """
    options = [
        "BatchMode=yes",
        "ExitOnForwardFailure=yes",
        f"ServerAliveInterval={ALIVE_INTERVAL_S}",
        f"ServerAliveCountMax={PATIENCE_S // ALIVE_INTERVAL_S}",
        f"ConnectTimeout={CONNECT_TIMEOUT_S}",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={_option_path(spec.known_hosts or '~/.ssh/known_hosts')}",
        f"HostKeyAlias={spec.name}",
        "CheckHostIP=no",
        "UpdateHostKeys=no",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ControlMaster=no",
        "ControlPath=none",
        f"Ciphers={FAST_CIPHERS}",
    ]
    if version >= OBSCURE_SINCE:
        options.append("ObscureKeystrokeTiming=no")
    if spec.own_config:
        # What a person has in there for sessions would end or hinder this one.
        options += ["RemoteCommand=none", "PermitLocalCommand=no", "Compression=no"]
    else:
        options.append("GlobalKnownHostsFile=/dev/null")
    argv = [spec.executable or ssh, *([] if spec.own_config else ["-F", "/dev/null"])]
    argv += ["-tt" if terminal else "-T", "-e", "none"]
    for option in options:
        argv += ["-o", option]
    if spec.key_file:
        argv += ["-o", "IdentitiesOnly=yes", "-i", spec.key_file]
    target = f"{_bracket(spec.remote_address)}:{spec.remote_port}"
    argv += ["-L", f"127.0.0.1:{spec.local_port}:{target}"]
    if ipv6:
        argv += ["-L", f"[::1]:{spec.local_port}:{target}"]
    # The account is ours to say: ssh takes the first that it is given.
    argv += ["-p", str(spec.ssh_port), "-l", spec.user, *spec.ssh_args, spec.address, WAIT_COMMAND]
    return argv


def printable(argv: list[str]) -> str:
    """The command as one would type it."""
    return " ".join(shlex.quote(a) for a in argv)


def _bracket(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _option_path(path: str) -> str:
    return f'"{path}"' if " " in path else path


@dataclass(frozen=True)
class Ending:
    """Why an ssh child ended: kind is one of `endings.Meaning`'s, or remote or unknown."""

    kind: str
    reason: str
    permanent: bool = False


def ending(spec: TunnelSpec, status: int | None, stderr: str) -> Ending:
    """What the child's last words and its exit status mean, in one sentence.

    status  exit status; negative for a signal, as subprocess reports it
    """
    known = endings.meaning(stderr)
    if known is not None:
        one, found = known
        reason = one.text.format(
            user=spec.user,
            key=spec.key_file,
            known_hosts=spec.known_hosts,
            port=spec.local_port,
            address=spec.address,
            ssh_port=spec.ssh_port,
            alive=PATIENCE_S,
            via=spec.via or "on the way",
            found=found,
        )
        more = local_network.hint(stderr)
        return Ending(one.kind, f"{reason}; {more}" if more else reason, permanent=not one.retried)
    if status is not None and status < 0:
        return Ending("dead", f"ssh ended by signal {-status}")
    if status == 255 or status is None:
        last = stderr.strip().splitlines()
        return Ending("unknown", "ssh failed" + (f": {last[-1]}" if last else ""))
    return Ending("remote", f"the session on the Mac ended (status {status})")
