"""Peers, whoever asks a seed, mirrors and commands: none of them costs more than it may."""

from __future__ import annotations

import io
import json
import signal
import sys
from email.message import Message

import pytest

from ds4agent.mac import output
from ds4agent.weights import origin, seed, transport
from tests.support import bounded, hostile

#: What a peer may say, as programs of Python in the place of its ssh.
PEERS = {
    "endless line": "while True: out.write(b'x' * 65536)",
    "trickled line": "while True: out.write(b'x'); out.flush(); time.sleep(0.05)",
    "deep": "out.write(b'[' * 100000 + b'\\n')",
    "beyond all bounds": 'out.write(b\'{"have": "", "chunks": 1e400}\\n\')',
    "many digits": "out.write(b'{\"index\": ' + b'9' * 5000 + b'}\\n')",
    "no UTF-8": "out.write(b'\\xff\\xfe\\n')",
    "a list": "out.write(b'[]\\n')",
    "other types": 'out.write(b\'{"have": 5, "chunks": 3, "state": {}}\\n{"index": [], "length": true}\\n\')',
    "refusal": "out.write(b'{\"error\": {}}\\n')",
    "endless errors": "while True: sys.stderr.write('x' * 65535 + '\\n')",
    "endless waiting": "while True: out.write(b'{\"waiting\": 0}\\n'); out.flush(); time.sleep(0.05)",
    "trickled chunk": 'out.write(b\'{"index": 0, "length": 1000}\\n\')\n'
    "while True: out.write(b'x'); out.flush(); time.sleep(0.05)",
}
PEER = """
from types import SimpleNamespace
from ds4agent.weights import peer
from ds4agent.weights import transport
peer.SILENT_S, peer.LINE_S, peer.BEGIN_S, peer.LONGEST_WAIT_S = 1, 1, 1, 1
peer.SLOWEST_BYTES_PER_S = 1000
found = {}
for name, program in given.items():
    argv = [sys.executable, "-c", "import sys, time\\nout = sys.stdout.buffer\\n" + program]
    part = SimpleNamespace(total_bytes=3000, chunk_bytes=1000)
    for does in ("pull", "have"):
        one = peer.Peer("x", argv, transport.Pace(0), lambda: None)
        try:
            one.pull("w", part, [0], True) if does == "pull" else one.have(3)
            found[name, does] = ""
        except transport.SourceError as error:
            found[name, does] = str(error)
        finally:
            one.close()
tell([[*key, why] for key, why in found.items()])
"""
REQUESTS = [
    b"[" * 3000,
    b'{"name": "w", "index": 1e400}',
    b'{"name": "w", "index": 1.5}',
    b'{"name": "w", "index": ' + b"9" * 3000 + b"}",
    b'{"name": "w", "index": NaN}',
    b'{"name": ["w"], "index": 0}',
    b'{"name": "w", "index": {}}',
    b'{"name": "' + b"w" * 100_000 + b'"}',
    b"\xff",
    b"null",
    b"",
]
MIRROR = """
from ds4agent.weights import transport
transport.STALL_S, transport.BEGIN_S, transport.SLOW_S, transport.MAX_FAILURES = 1, 1, 0.5, 2
found = {}
for name, port in given.items():
    try:
        source = transport.Source("http://127.0.0.1:%d/x" % port, 4000, wait=lambda _s: None)
        source.fetch(0, lambda piece: None)
        found[name] = ""
    except transport.SourceError as error:
        found[name] = str(error)
tell(found)
"""


def test_a_peer_that_keeps_to_no_limit_is_given_up_in_a_clause() -> None:
    for name, does, why in bounded.run(PEER, PEERS):
        # One who waits has something to say, and is asked for a chunk; one who lists has said it.
        assert why and len(why) < 400 and "\n" not in why, (name, does)


@pytest.mark.parametrize("request_line", REQUESTS, ids=lambda line: line[:30].decode("latin-1"))
def test_a_seed_answers_what_is_no_request_with_one_line(tmp_path, request_line) -> None:
    (tmp_path / "order.json").write_text(json.dumps({"seed_slots": 1, "files": [], "chunk_bytes": 1}))
    asked, said = io.BytesIO(request_line + b"\n"), io.BytesIO()
    seed.Seed(str(tmp_path), seed.requests(asked), said).serve()
    assert json.loads(said.getvalue()) == {"error": "not a request"}


SEED = """
import pathlib, subprocess
folder = pathlib.Path(given["folder"])
(folder / "slots").mkdir()
(folder / "slots" / "0").touch()
(folder / "w").write_bytes(bytes(1 << 20))
wanted = {"name": "w", "path": str(folder / "w"), "sha256": None, "bytes": 1 << 20}
(folder / "order.json").write_text(json.dumps({"seed_slots": 1, "chunk_bytes": 1 << 20, "files": [wanted]}))
code = given["head"] + '''
from ds4agent.weights import seed
seed.BEGIN_S, seed.SLOWEST_BYTES_PER_S = 1, 1 << 30
seed.Offered.is_proven = lambda self: True
seed.main(sys.argv[2:])
'''
argv = [sys.executable, "-c", code, "{}", str(folder)]
seed = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
seed.stdin.write(b'{"name": "w", "index": 0}\\n')
seed.stdin.flush()
tell(seed.wait(30))
"""


def test_who_asks_and_does_not_read_keeps_no_slot(tmp_path) -> None:
    assert bounded.run(SEED, {"head": bounded.HEAD, "folder": str(tmp_path)}) == -signal.SIGALRM


def test_a_mirror_that_keeps_to_no_limit_is_given_up_in_a_clause() -> None:
    with hostile.serving() as ports:
        found = bounded.run(MIRROR, ports)
    # What it was asked for is taken, and no more.
    assert found.pop("endless-range") == ""
    for name, why in found.items():
        assert why and len(why) < 200 and "\n" not in why, name
    assert "redirects without end" in found["new-redirects"] and "redirects without end" in found["redirects"]


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"Content-Range": "bytes 0-3/" + "9" * 5000}, "without a range"),
        ({"Content-Range": "bytes \u0660-3/4"}, "without a range"),
    ],
)
def test_a_range_of_odd_numbers_is_none(header, sentence) -> None:
    class Answer:
        status, headers = 206, Message()

    for name, value in header.items():
        Answer.headers[name] = value
    with pytest.raises(origin.SourceError, match=sentence):
        origin.expected_bytes(Answer, 0, 4, 4)


@pytest.mark.parametrize("value", ["9" * 5000, "\u00b2", "soon", "-1", "1e9"])
def test_what_is_no_number_of_seconds_is_a_minute(value) -> None:
    assert transport._retry_after_s(value) == 60


class TestACommand:
    @staticmethod
    def run(code, timeout_s=30, **options):
        return output.run([sys.executable, "-c", code], timeout_s, **options)

    def test_its_streams_status_and_input_are_as_usual(self):
        code = "import sys; print(sys.stdin.read()); sys.exit('no')"
        done = self.run(code, stdin="a" * 200_000)
        assert (done.returncode, done.stdout, done.stderr, done.cut) == (1, "a" * 200_000 + "\n", "no\n", "")

    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    def test_one_that_prints_without_end_is_ended(self, stream):
        done = self.run(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)", max_bytes=200_000)
        assert done.cut == output.LONG and 200_000 < len(getattr(done, stream)) < 400_000

    def test_where_only_the_end_counts_it_goes_on(self):
        done = self.run("print('x' * 500_000); print('end')", max_bytes=1000, only_end=True)
        assert (done.returncode, done.cut, len(done.stdout)) == (0, "", 1000) and done.stdout.endswith(
            "end\n"
        )

    def test_one_that_trickles_ends_with_the_time_for_the_whole(self):
        code = "import time\nwhile True: print('x', flush=True); time.sleep(0.05)"
        done = self.run(code, timeout_s=1)
        assert done.cut == output.LATE and done.stdout.startswith("x\n")

    def test_one_that_reads_nothing_of_a_large_input_is_no_trouble(self):
        assert self.run("print(1)", stdin="x" * 1_000_000).stdout == "1\n"

    def test_what_it_leaves_in_the_background_is_not_waited_for(self):
        code = "import subprocess; subprocess.Popen(['/bin/sleep', '20']); print('done')"
        assert self.run(code, timeout_s=15).cut == ""

    def test_bytes_that_are_no_text_are_shown_as_such(self):
        assert self.run("import sys; sys.stdout.buffer.write(b'\\xff')").stdout == "\ufffd"
