"""A connector of pyinfra whose Mac is a table of recorded answers; starts nothing and connects to nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyinfra.connectors.base import BaseConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

CONFIG = Path(__file__).with_name("server.conf")
_STAT = "user=root group=wheel mode={} atime=1790000000 mtime=1790000000 ctime=1790000000 size=64 '{}'"
#: What is in a command, the first that fits counts: what the Mac says to it.
ANSWERS = (
    ("sha1sum", f"{hashlib.sha1(CONFIG.read_bytes()).hexdigest()}  /opt/ds4/etc/server.conf"),
    ("/opt/ds4/etc/server.conf", _STAT.format("-rw-r--r--", "/opt/ds4/etc/server.conf")),
    ("/opt/ds4/engine/current", _STAT.format("lrwxr-xr-x", "/opt/ds4/engine/current' -> 'releases/1")),
    ("/opt/ds4/etc", _STAT.format("drwxr-xr-x", "/opt/ds4/etc")),
    ("/opt/ds4", _STAT.format("drwxr-xr-x", "/opt/ds4")),
    ("launchctl list", "700\t0\tcom.ds4fleet.server"),
)


class RecordedConnector(BaseConnector):
    """`@recorded/NAME`: a Mac on which everything of the deploy is there."""

    handles_execution = True

    @staticmethod
    def make_names_data(name: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """The one host of a name."""
        yield name, {}, []

    def run_shell_command(self, command: Any, *_: Any, **__: Any) -> tuple[bool, CommandOutput]:
        """The recorded answer to a command; nothing, and success, to one that is not in the table."""
        text = command.get_raw_value()
        answer = next((said for part, said in ANSWERS if part in text), "")
        return True, CommandOutput([OutputLine("stdout", answer)] if answer else [])

    def put_file(self, *_: Any, **__: Any) -> bool:
        """Never needed: everything is there."""
        return False

    def get_file(self, *_: Any, **__: Any) -> bool:
        """Never needed."""
        return False
