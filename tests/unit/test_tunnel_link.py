"""What a tunnel tells of its ssh, with a program in ssh's place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ds4agent.tunnel.link import Link
from ds4agent.tunnel.spec import TunnelSpec
from tests.support.tunnel_ends import free_port

#: As OpenSSH 10 does when it is told to end.
SSH = """#!/bin/sh
trap 'echo "Connection to 192.0.2.7 closed." >&2; exit 255' TERM
echo "a warning" >&2
while :; do sleep 0.05; done
"""


def test_that_ssh_ends_when_it_is_told_to_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text(SSH)
    program.chmod(0o755)
    monkeypatch.setattr(Link, "command", lambda _self: [str(program)])
    words: list[str] = []
    warned = asyncio.Event()

    def told(_link: Link, text: str) -> None:
        words.append(text)
        if text == "ssh: a warning":
            warned.set()

    async def main() -> None:
        # Behind a jump host nobody probes.
        spec = TunnelSpec("mac", "192.0.2.7", "u", free_port(), ssh_args=("-J", "x"))
        link = Link(spec, on_change=told)
        running = asyncio.ensure_future(link.run())
        await asyncio.wait_for(warned.wait(), 30)
        link.stop()
        await asyncio.wait_for(running, 30)

    asyncio.run(main())
    assert words == ["connecting", "ssh: a warning", "stopped"]
