"""The Mac of a proof: commands over ssh, each kept with its raw output and its time."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ds4agent.mac import output
from ds4fleet.cli.prove.bundle import Bundle, Told, Watch
from ds4fleet.errors import EXIT_UNREACHABLE, OperatorError
from ds4fleet.inventory.fleet import Host
from ds4fleet.layout import FLEET
from ds4fleet.remote import ssh

COMMAND_S = 120
#: Kept of a command.
MOST_BYTES = 4 << 20
#: A history of a few hundred KiB, over any line.
PUSH_S = 600


class Mac:
    """Runs commands there and keeps what they said."""

    def __init__(self, host: Host, bundle: Bundle) -> None:
        self.host = host
        self.bundle = bundle
        self.step = "before"

    def run(self, name: str, script: str, *, root: bool = True, timeout_s: float = COMMAND_S) -> Told:
        """A script under the Mac's /bin/sh, as root unless it is to be the administrator."""
        shell = ("sudo", "-n", "/bin/sh", "-s") if root else ("/bin/sh", "-s")
        watch = Watch()
        argv = [*ssh.argv(self.host), shlex.join(shell)]
        ended = output.run(argv, timeout_s, stdin=ssh.asked(script), max_bytes=MOST_BYTES)
        out, status = ssh.answered(ended.stdout), None if ended.cut else ended.returncode
        return self._keep(name, script, status, watch, out, ended.stderr)

    def push(self, name: str, path: Path, script: str) -> Told:
        """A file of this machine to the standard input of a script there."""
        watch = Watch()
        argv = [*ssh.argv(self.host), shlex.join(("sudo", "-n", "/bin/sh", "-c", script))]
        with path.open("rb") as stream:
            try:
                done = subprocess.run(
                    argv, stdin=stream, capture_output=True, text=True, timeout=PUSH_S, check=False
                )
            except subprocess.TimeoutExpired:
                return self._keep(name, script, None, watch, "", "")
        return self._keep(name, script, done.returncode, watch, done.stdout, done.stderr)

    def here(self, name: str, argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Told:
        """A program of this machine, whose work is on the Mac."""
        watch = Watch()
        ended = output.run(
            argv, timeout_s, max_bytes=MOST_BYTES, only_end=True, env=dict(environment), cwd=FLEET
        )
        status = None if ended.cut else ended.returncode
        return self._keep(name, shlex.join(argv), status, watch, ended.stdout, ended.stderr)

    def _keep(self, name: str, shown: str, status: int | None, watch: Watch, out: str, err: str) -> Told:
        told = Told(self.step, name, shown, status, watch.seconds, out, err)
        self.bundle.told.append(told)
        return told

    def until(self, name: str, script: str, holds: Callable[[Told], bool], timeout_s: float) -> Told | None:
        """Repeats a command until its answer holds; the last one is kept. None when that did not come."""
        deadline = time.monotonic() + timeout_s
        while True:
            told = self.run(name, script)
            if holds(told):
                return told
            if time.monotonic() > deadline:
                return None
            self.bundle.told.pop()
            time.sleep(0.5)

    def reach(self) -> None:
        """Raises OperatorError where it does not answer, or gives no root without a password."""
        told = self.run("reach", "id -u", timeout_s=60)
        if told.status == 0 and told.out.strip() == "0":
            return
        why = ssh.last_line(told.err) or "it does not answer"
        raise OperatorError(
            f"{self.host.name}: a proof needs ssh with a key and sudo without a password: {why}. Run"
            " `ansible-playbook playbooks/bootstrap.yml` for it first, or pass --password-file",
            exit_code=EXIT_UNREACHABLE,
        )
