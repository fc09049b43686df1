# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Take chunks from another Mac's ds4-seed, through one ssh connection with several requests under way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from ..border import bounded_json
from . import chunks
from .origin import SourceError

if TYPE_CHECKING:
    from ..shapes import Sender
    from .progress import Counted
    from .transport import Pace

SSH = "/usr/bin/ssh"
#: Requests on their way: a connection with 250 ms of round trip stays busy with chunks of some MiB.
AHEAD = 4
#: A seed that waits says so each second; one that is silent for so long is gone.
SILENT_S = 6
#: A line that has begun is there as a whole soon after: nothing stands before it on the line.
LINE_S = 2 * SILENT_S
#: A chunk comes at this rate at least, after a beginning; a slower peer is as good as gone.
SLOWEST_BYTES_PER_S = 16 * 1024
BEGIN_S = 60
#: A peer whose own source gives it no chunk for so long is left for another one.
LONGEST_WAIT_S = 3600
#: Wrong chunks from one peer before it is given up.
MAX_WRONG = 3
#: Its bitmap is the longest line: 4 million chunks.
MAX_LINE = 1024 * 1024
#: Of what ssh says only the end tells why it ended.
TAIL_BYTES = 4096


def ssh_argv(peer: Sender, folder: str) -> list[str]:
    """The command line: the key and the host keys of this run, nothing of anybody's configuration."""
    options = [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=%s/known_hosts" % folder,
        "GlobalKnownHostsFile=/dev/null",
        "HostKeyAlias=%s" % peer["name"],
        "ConnectTimeout=8",
        "ServerAliveInterval=2",
        "ServerAliveCountMax=3",
        "Compression=no",
        # The cheapest cipher where the processor has instructions for it; the others stay allowed.
        "Ciphers=^aes128-gcm@openssh.com",
        "ForwardAgent=no",
    ]
    words = [SSH, "-F", "/dev/null", "-T", "-e", "none", "-i", folder + "/key", "-p", str(peer["port"])]
    for option in options:
        words += ["-o", option]
    return [*words, "%s@%s" % (peer["user"], peer["address"])]


class Tail:
    """The last bytes of what ssh says on standard error, however much that is."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._reader: threading.Thread | None = None

    def follow(self, stream: IO[bytes]) -> None:
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def write(self, data: bytes) -> None:
        self._kept += data
        del self._kept[:-TAIL_BYTES]

    def last(self) -> str:
        """The last line, once the stream has ended."""
        if self._reader is not None:
            self._reader.join(1)
        said = bytes(self._kept).decode("utf-8", "replace").strip().splitlines()
        return said[-1][:300] if said else ""

    def _read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), stream:
            while True:
                piece = stream.read(TAIL_BYTES)
                if not piece:
                    return
                self.write(piece)


class Socket:
    """A socket of this Mac in the place of a process that leads to the seed, with what Peer uses of one.

    Behind it is the controller, through the ssh that it opened to this Mac (ds4fleet.weights.push).
    """

    def __init__(self, path: str, errors: Tail) -> None:
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.line.connect(path)
        except OSError as error:
            errors.write(("not connected: %s" % error.strerror).encode())
        self.stdin = self.line.makefile("wb", buffering=0)
        self.stdout = self.line.makefile("rb", buffering=0)

    def poll(self) -> int | None:
        return None

    def kill(self) -> None:
        self.line.close()

    def wait(self, _timeout_s: float | None = None) -> int:
        return 0


class Peer:
    """One session with a seed. `way` is the command line of something that speaks its protocol on standard
    streams, or the path of a socket that does."""

    def __init__(self, name: str, way: str | Sequence[str], pace: Pace, hold: Callable[[], object]) -> None:
        self.name = name
        self.pace = pace
        self.hold = hold
        self.asked, self.state = False, ""
        self.errors = Tail()
        self.process: Socket | subprocess.Popen[bytes]
        if isinstance(way, str):
            self.process = Socket(way, self.errors)
        else:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(way, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, cwd="/")
            self.errors.follow(cast("IO[bytes]", self.process.stderr))
        self._to, self._from = cast("Any", self.process.stdin), cast("Any", self.process.stdout)
        self._read = bytearray()

    def close(self) -> None:
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ask_have(self, name: str) -> None:
        """Ask which chunks it has; `have` gives the answer."""
        self.asked = True
        self._ask({"name": name, "have": True})

    def has_answered(self) -> bool:
        """Whether an answer is there, without waiting for one."""
        while b"\n" not in self._read:
            if not select.select([self._from], [], [], 0)[0]:
                return False
            self._more()
        return True

    def have(self, total: int) -> tuple[set[int], bool]:
        """(the chunks that it has now, whether it is receiving more); `state` is what its fetch is at."""
        answer = self._answer()
        self.state = bounded_json.text(answer.get("state"), 20)
        try:
            have = chunks.from_bitmap(answer["have"], total) if answer["chunks"] == total else set()
        except (KeyError, ValueError, TypeError):
            raise SourceError("its answer makes no sense") from None
        return have, bool(answer.get("at_work"))

    def pull(self, name: str, part: Counted | chunks.ChunkedPart, indices: Sequence[int], wait: bool) -> None:
        """Commit these chunks to `part`, in order.

        Raises SourceError when the peer ends, is silent, lacks a chunk (and does not wait for it), or sends
        wrong bytes several times; what was committed stays. What `hold` raises ends it too.
        """
        left, wrong = list(reversed(indices)), 0
        asked: list[int] = []
        gained = time.monotonic()
        while left or asked:
            self.hold()
            while left and len(asked) < AHEAD:
                asked.insert(0, left.pop())
                self._ask({"name": name, "index": asked[0], "wait": wait})
            answer = self._answer()
            if "waiting" in answer:
                if time.monotonic() - gained > LONGEST_WAIT_S:
                    raise SourceError("has had to wait for a chunk for %d s itself" % LONGEST_WAIT_S)
                continue
            index = asked.pop()
            if answer.get("index") != index or not isinstance(answer.get("length"), int):
                raise SourceError("it does not have chunk %d" % index)
            length = chunks.span(index, part.total_bytes, part.chunk_bytes)[1]
            if answer["length"] != length:
                raise SourceError("its chunk %d has %d bytes, not %d" % (index, answer["length"], length))
            data = self._take(length)
            gained = time.monotonic()
            digest = hashlib.sha256(data).hexdigest()
            if digest != answer.get("sha256"):
                wrong += 1
                if wrong >= MAX_WRONG:
                    raise SourceError("%d of its chunks are not what its manifest says" % wrong)
                left.append(index)
                continue
            part.commit(index, data, digest)
            self.pace.spent(length)

    def _ask(self, request: Mapping[str, Any]) -> None:
        try:
            self._to.write(json.dumps(request).encode() + b"\n")
        except OSError:
            raise SourceError(self._why()) from None

    def _answer(self) -> dict[str, Any]:
        until = time.monotonic() + LINE_S
        while b"\n" not in self._read:
            if len(self._read) > MAX_LINE or time.monotonic() > until:
                raise SourceError("its answer has no end")
            self._more()
        line, _newline, self._read = self._read.partition(b"\n")
        try:
            answer = bounded_json.mapping(line, max_bytes=MAX_LINE)
        except bounded_json.JsonError as error:
            raise SourceError("its answer %s" % error) from None
        if "error" in answer:
            raise SourceError(
                "it refused: %s" % (bounded_json.text(answer["error"], 100) or "no reason given")
            )
        return answer

    def _take(self, length: int) -> bytearray:
        data, at = bytearray(length), min(length, len(self._read))
        until = time.monotonic() + BEGIN_S + length / SLOWEST_BYTES_PER_S
        data[:at] = self._read[:at]
        del self._read[:at]
        view = memoryview(data)
        while at < length:
            if time.monotonic() > until:
                raise SourceError("slower than %d bytes a second" % SLOWEST_BYTES_PER_S)
            self._await()
            count = self._from.readinto(view[at:])
            if not count:
                raise SourceError(self._why())
            at += count
        return data

    def _more(self) -> None:
        self._await()
        piece = os.read(self._from.fileno(), 4096)
        if not piece:
            raise SourceError(self._why())
        self._read += piece

    def _await(self) -> None:
        if not select.select([self._from], [], [], SILENT_S)[0]:
            raise SourceError("silent for %d s" % SILENT_S)

    def _why(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        said = self.errors.last()
        return "connection ended%s" % (": " + said if said else "")
