"""A Mac on paper: runs a simulated command against a model, without a booted Mac and without rights."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maclab import commands
from maclab.machine import stock
from maclab.machine.context import Context
from maclab.machine.model import Mac

RECORDINGS = Path(__file__).resolve().parents[2] / "recordings"

HARDWARE = {
    "model": "Mac15,14",
    "chip": "Apple M3 Ultra",
    "memory_gb": 512,
    "storage_gb": 4000,
    "form": "Mac Studio",
}


@dataclass
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str
    mac: Mac


class FakeContext(Context):
    """A Context whose root folder is a temporary one; calls to PID 1 are noted in `calls`."""

    calls: list[tuple[str, dict[str, Any]]]

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.calls.append((op, arguments))
        return {"ok": True, "out": "", "err": "", "rc": 0}

    def wait(self, seconds: float) -> None:
        """No test waits."""


def bare(**hardware: Any) -> Mac:
    """A bare Mac; keyword arguments change its declared hardware."""
    return stock.bare("tyo-01", "tokyo", HARDWARE | hardware)


class Terminal(io.StringIO):
    """A screen."""

    def isatty(self) -> bool:
        return True


def run(
    mac: Mac, *argv: str, uid: int = 0, gid: int | None = None, stdin: str = "", tty: bool = False
) -> Result:
    """Run a command on `mac` as `uid`; what it changed is in the result's `mac`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        (folder / "run/sysctl").mkdir()
        (folder / "run/wired").mkdir()
        mac.save(folder / "mac.json")
        ctx = FakeContext(
            argv=list(argv),
            uid=uid,
            gid=(20 if uid else 0) if gid is None else gid,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/var/root"},
            stdin=io.StringIO(stdin),
            stdout=Terminal() if tty else io.StringIO(),
            stderr=io.StringIO(),
            folder=folder,
        )
        ctx.calls = []
        status = commands.run(ctx)
        assert isinstance(ctx.stdout, io.StringIO)
        assert isinstance(ctx.stderr, io.StringIO)
        return Result(status, ctx.stdout.getvalue(), ctx.stderr.getvalue(), Mac.load(folder / "mac.json"))


def recording(name: str) -> str:
    """The text of a recording, without the collector's comment lines at its start."""
    text = (RECORDINGS / name).read_text()
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith("# "):
        lines.pop(0)
    return "".join(lines)
