"""One ssh process under a tunnel, from its start to its end."""

from __future__ import annotations

import asyncio
import collections
import errno
import os
import pty
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence

from ..border import plain
from .within import within

STOP_GRACE_S = 2.0
#: Of a line that ssh or the far side says; a state line has about 100.
LINE_LETTERS = 2000
#: What ssh says when the Mac refuses a connection to the engine's port.
REFUSAL = "open failed"
#: Takes descriptor 0 as controlling terminal and becomes the program of its arguments. A program of its own,
#: as asyncio waits for children in threads here and there, and Python between fork and exec could then hang.
#: Whoever starts us with nohup has the hangup ignored, which programs inherit: ssh would outlive us.
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.exit("%s: %s" % (sys.argv[1], error.strerror))
"""


class Child:
    """A started ssh.

    port        where it listens on this machine
    heard_at    when the far side last gave a sign of life (monotonic), None before the first
    refused_at  when ssh last said that the far side took no connection
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard_at: float | None = None
        self.refused_at = float("-inf")
        self.warnings: collections.deque[str] = collections.deque(maxlen=40)
        self._process: asyncio.subprocess.Process | None = None
        self._master = -1

    @property
    def pid(self) -> int:
        """Its process id, 0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.returncode if self._process is not None else None

    def hear(self) -> None:
        """The far side has given a sign of life."""
        self.heard_at = time.monotonic()

    def warn(self, line: str) -> bool:
        """A line of ssh's own; whether it is worth telling: not empty, and another one than the last."""
        if not line:
            return False
        if REFUSAL in line:
            self.refused_at = time.monotonic()
        fresh = not self.warnings or self.warnings[-1] != line
        self.warnings.append(line)
        return fresh

    async def start(self, argv: Sequence[str]) -> None:
        """Starts it. Raises OSError, and leaves no descriptor, when that cannot be done."""
        if shutil.which(argv[0]) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
        self._master, slave = pty.openpty()
        try:
            # A pseudo-terminal as controlling terminal: when this process dies, however it dies, the kernel
            # hangs the terminal up and ssh with it, so that no orphan keeps the port.
            self._process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-I", "-S", "-c", TAKE_TERMINAL, *argv],
                stdin=slave,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError:
            os.close(self._master)
            raise
        finally:
            os.close(slave)

    async def attend(self, heard: Callable[[str], None], warned: Callable[[str], None]) -> None:
        """Until it has ended; `heard` gets the lines of the Mac's command, `warned` those of ssh itself."""
        process = self._process
        if process is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("ssh is attended before it is started")
        readers = {
            asyncio.ensure_future(_read(process.stdout, heard)),
            asyncio.ensure_future(_read(process.stderr, warned)),
        }
        try:
            await process.wait()
            await asyncio.wait(readers, timeout=STOP_GRACE_S)
        finally:
            for reader in readers:
                reader.cancel()
            os.close(self._master)

    async def end(self) -> None:
        """Ends it, by force after STOP_GRACE_S."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            os.killpg(process.pid, signal.SIGTERM)
            await within(STOP_GRACE_S, process.wait())
        except asyncio.TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        except ProcessLookupError:
            pass


async def _read(stream: asyncio.StreamReader, use: Callable[[str], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # a line beyond the reader's limit; nothing we wait for is that long
            continue
        if not line:
            return
        # Nothing of it has a meaning for a terminal, wherever it goes from here.
        use(plain.line(line.decode(errors="replace").strip(), LINE_LETTERS))
