# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Take chunks from another Mac's ds4-seed, through one ssh connection with several requests under way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import subprocess
import tempfile
import time

from ansible.module_utils import ds4_chunks
from ansible.module_utils.ds4_transport import SourceError

SSH = "/usr/bin/ssh"
#: Requests on their way: a connection with 250 ms of round trip stays busy with chunks of some MiB.
AHEAD = 4
#: A seed that waits says so each second; one that is silent for so long is gone.
SILENT_S = 10
#: Wrong chunks from one peer before it is given up.
MAX_WRONG = 3


def ssh_argv(peer, folder):
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
        "ForwardAgent=no",
    ]
    words = [SSH, "-F", "/dev/null", "-T", "-e", "none", "-i", folder + "/key", "-p", str(peer["port"])]
    for option in options:
        words += ["-o", option]
    return [*words, "%s@%s" % (peer["user"], peer["address"])]


class Peer:
    """One session with a seed. `argv` starts something that speaks its protocol on standard streams."""

    def __init__(self, name, argv, pace, hold, clock=time.monotonic):
        self.name = name
        self.pace = pace
        self.hold = hold
        self.clock = clock
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0, cwd="/"
        )
        self._read = bytearray()

    def close(self):
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.errors.close()

    def have(self, name, total):
        """The chunks that it has now."""
        self._ask({"name": name, "have": True})
        answer = self._answer()
        try:
            return ds4_chunks.from_bitmap(answer["have"], total) if answer["chunks"] == total else set()
        except (KeyError, ValueError, TypeError):
            raise SourceError("its answer makes no sense") from None

    def pull(self, name, part, indices, wait, until=None):
        """Commit these chunks to `part`, in order, until all came or the clock is at `until`.

        Raises SourceError when the peer ends, is silent, lacks a chunk (and does not wait for it), or sends
        wrong bytes several times; what was committed stays. What `hold` raises ends it too.
        """
        left, asked, wrong = list(reversed(indices)), [], 0
        while left or asked:
            self.hold()
            if until is not None and self.clock() >= until:
                left = []
            while left and len(asked) < AHEAD:
                asked.insert(0, left.pop())
                self._ask({"name": name, "index": asked[0], "wait": wait})
            if not asked:
                return
            answer = self._answer()
            if "waiting" in answer:
                continue
            index = asked.pop()
            if answer.get("index") != index or not isinstance(answer.get("length"), int):
                raise SourceError("it does not have chunk %d" % index)
            length = ds4_chunks.span(index, part.total_bytes, part.chunk_bytes)[1]
            if answer["length"] != length:
                raise SourceError("its chunk %d has %d bytes, not %d" % (index, answer["length"], length))
            data = self._take(length)
            digest = hashlib.sha256(data).hexdigest()
            if digest != answer.get("sha256"):
                wrong += 1
                if wrong >= MAX_WRONG:
                    raise SourceError("%d of its chunks are not what its manifest says" % wrong)
                left.append(index)
                continue
            part.commit(index, data, digest)
            self.pace.spent(length)

    def _ask(self, request):
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError:
            raise SourceError(self._why()) from None

    def _answer(self):
        while b"\n" not in self._read:
            self._more()
        line, _newline, rest = bytes(self._read).partition(b"\n")
        self._read = bytearray(rest)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or "error" in answer:
            raise SourceError("its answer makes no sense")
        return answer

    def _take(self, length):
        while len(self._read) < length:
            self._more(min(1024 * 1024, length - len(self._read)))
        data = bytes(self._read[:length])
        del self._read[:length]
        return data

    def _more(self, most=4096):
        ready, _write, _error = select.select([self.process.stdout], [], [], SILENT_S)
        piece = os.read(self.process.stdout.fileno(), most) if ready else b""
        if not piece:
            raise SourceError(self._why() if ready else "silent for %d s" % SILENT_S)
        self._read += piece

    def _why(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        self.errors.seek(0)
        said = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        return "connection ended%s" % (": " + said[-1] if said else "")
