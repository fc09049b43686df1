"""What Macs answer about weights, as lines and files."""

from __future__ import annotations

import json

from ds4fleet import weights_cli

SAID = {
    "state": "fetching",
    "file": "w.gguf",
    "done_bytes": 5_000_000_000,
    "total_bytes": 10_000_000_000,
    "bytes_per_s": 10_000_000,
    "source": "tyo-01",
    "error": "",
    "reason": "",
    "updated_at": 1000,
}
LISTED = """\
@@file 100 a.gguf
sha256=aa
size_bytes=100
inode=1
mtime_ns=2
proven_at=2026-03-01T00:00:00Z
@@file 90 b.gguf
@@file 40 c.gguf.part.0123.relay
@@file 90 b.gguf.sha-mismatch
@@served
argument=/opt/ds4/models/a.gguf

@@planned
argument=/opt/ds4/models/b.gguf

@@now 1000
"""


def test_a_line_says_how_far_a_mac_is() -> None:
    line = weights_cli.line_of("tyo-02", json.dumps(SAID) + "\n@@now 1003")
    assert (line.state, line.source, line.done_bytes) == ("fetching", "tyo-01", 5_000_000_000)


def test_a_fetch_that_is_silent_has_stopped_one_that_is_done_has_not() -> None:
    assert weights_cli.line_of("tyo-02", json.dumps(SAID) + "\n@@now 1100").state == "stopped"
    done = json.dumps({**SAID, "state": "done"})
    assert weights_cli.line_of("tyo-02", done + "\n@@now 1100").state == "done"


def test_a_mac_without_an_order_and_one_that_is_silent_differ() -> None:
    assert weights_cli.line_of("tyo-02", "\n@@now 1").state == "-"
    assert weights_cli.line_of("tyo-02", "").state == "no answer"


def test_files_are_told_apart_by_their_stamps_and_names() -> None:
    found = weights_cli.files_of("tyo-02", LISTED)
    assert [file.kind for file in found] == ["proven", "unproven", "part", "wrong"]
    assert [file.used for file in found[:2]] == [["running"], ["configured"]]
    assert found[0].proven_at == "2026-03-01T00:00:00Z"
