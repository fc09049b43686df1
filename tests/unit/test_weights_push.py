"""Files of the controller for the Macs: what is offered, over which way, and how long."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ds4agent.weights import seed
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Host
from ds4fleet.weights import push, relay
from ds4fleet.weights.order import TransferOrder

MIB = 1024 * 1024
DATA = bytes(range(256)) * 8192 + b"the last chunk is a short one"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_FLEET_STATE", str(tmp_path / "state"))


@pytest.fixture
def order(tmp_path: Path) -> TransferOrder:
    (tmp_path / "w.gguf").write_bytes(DATA)
    file = {
        "name": "w.gguf",
        "path": "/opt/ds4/models/w.gguf",
        "bytes": len(DATA),
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "urls": [f"file://{tmp_path}/w.gguf", "https://o/w.gguf"],
        "header": {},
    }
    settings = {**role_defaults(), "ds4_prefetch_chunk_mib": 1}
    mac = relay.Mac("tyo-01", "tokyo", "t", 22, "/opt/ds4/models", [file], settings=settings)
    return relay.orders([mac])["tyo-01"].order


@pytest.fixture
def transfer(order: TransferOrder) -> push.Transfer:
    made = push.transfer_to(Host("tyo-01", "tokyo", {}), order)
    assert made is not None
    return made


def test_an_order_names_its_way_only_where_something_is_pushed(order: TransferOrder, tmp_path: Path) -> None:
    assert order.push == f"/tmp/ds4-push-{order.id}.sock"
    (tmp_path / "w.gguf").unlink()
    assert push.transfer_to(Host("tyo-01", "tokyo", {}), order) is None
    assert push.start([]) is None


class TestSeed:
    def test_a_mac_gets_the_chunks_that_it_asks_for(self, transfer: push.Transfer, tmp_path: Path) -> None:
        from ds4agent.weights import chunks
        from ds4agent.weights import peer as weights_peer
        from ds4agent.weights.transport import Pace

        part = chunks.ChunkedPart(str(tmp_path / "over-there"), "rev", len(DATA), MIB).open()
        try:
            with push.seeding(transfer) as path:
                peer = weights_peer.Peer("controller", path, Pace(0), lambda: None)
                peer.ask_have("w.gguf")
                assert peer.have(part.total)[0] == {0, 1, 2}
                peer.pull("w.gguf", part, [2, 0, 1], wait=True)
                peer.close()
            assert part.missing() == []
            assert Path(part.path).read_bytes() == DATA
        finally:
            part.close()

    def test_it_knows_nothing_but_the_files_of_the_errand(self, transfer: push.Transfer) -> None:
        from ds4agent.weights import peer as weights_peer
        from ds4agent.weights.transport import Pace, SourceError

        with push.seeding(transfer) as path:
            peer = weights_peer.Peer("controller", path, Pace(0), lambda: None)
            peer.ask_have("/etc/passwd")
            assert peer.have(3)[0] == set()
            peer.close()
        with pytest.raises(SourceError, match="not connected"):
            weights_peer.Peer("controller", path, Pace(0), lambda: None).ask_have("w.gguf")

    def test_a_file_that_was_taken_away_is_absent_and_not_an_error(self, transfer: push.Transfer) -> None:
        Path(str(transfer.files[0]["path"])).unlink()
        whole = push.Whole(transfer.files[0], MIB)
        assert isinstance(whole, seed.Offered) and whole.find(0) is None


class TestWay:
    """`run` with a program in the place of ssh."""

    @pytest.fixture
    def ssh(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        calls = tmp_path / "calls"

        def argv(_host: Host, *words: str) -> list[str]:
            code = f"import sys; said = open({str(calls)!r}, 'a');"
            code += "said.write(repr([*sys.argv[1:], sys.stdin.read()]) + chr(10));"
            code += f"sys.exit(int(open({str(tmp_path / 'status')!r}).read() or 0))"
            return [sys.executable, "-c", code, *words]

        monkeypatch.setattr(push.ssh, "argv", argv)
        (tmp_path / "status").write_text("0")
        return calls

    def test_what_a_lost_connection_left_is_removed_first(self, transfer: push.Transfer, ssh: Path) -> None:
        assert push.run(transfer, threading.Event()) == "over"
        first, second = ssh.read_text().splitlines()
        assert f"/bin/rm -f {transfer.socket}" in first
        assert f"'-R', '{transfer.socket}:" in second and "ExitOnForwardFailure=yes" in second

    def test_a_lost_connection_is_made_again(
        self, transfer: push.Transfer, ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Pauses(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                (tmp_path / "status").write_text("255" if len(ssh.read_text().splitlines()) < 5 else "0")
                return super().wait(0.01)

        (tmp_path / "status").write_text("255")
        assert push.run(transfer, Pauses()) == "over"
        assert "/bin/rm -f" in ssh.read_text().splitlines()[-2]

    def test_a_mac_that_cannot_be_reached_is_given_up_in_the_end(
        self, transfer: push.Transfer, ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "status").write_text("255")
        monkeypatch.setattr(push, "PATIENCE_S", 0)
        assert push.run(transfer, threading.Event()) == "given up: ssh ended with status 255"

    def test_a_second_process_leaves_it_to_the_first(self, transfer: push.Transfer, ssh: Path) -> None:
        with push.claimed(f"push-tyo-01-{transfer.order_id}") as mine:
            assert mine and push.run(transfer, threading.Event()) == "another process is at it"
            # Who it is stays to be read.
            (held,) = (push.state_dir() / "held").glob("push-*")
            assert json.loads(held.read_text()) == {"pid": os.getpid()}
        assert push.run(transfer, threading.Event()) == "over"


@pytest.mark.parametrize("state", ["done", "failed", "aborted"])
def test_the_way_stays_open_until_the_fetch_of_this_order_has_ended(tmp_path: Path, state: str) -> None:
    script = push._UNTIL_OVER.format(id="0123", folder=tmp_path, order_s=60).replace("sleep 2", "sleep 0.05")
    (tmp_path / "order.json").write_text('{"id": "0123"}')
    (tmp_path / "status.json").write_text('{"id": "0122", "state": "done"}')
    with subprocess.Popen(["/bin/sh", "-s"], stdin=subprocess.PIPE, text=True) as shell:
        assert shell.stdin
        shell.stdin.write(script)
        shell.stdin.close()
        (tmp_path / "status.json").write_text('{"id": "0123", "state": "fetching"}')
        with pytest.raises(subprocess.TimeoutExpired):
            shell.wait(0.5)
        (tmp_path / "status.json").write_text(f'{{"id": "0123", "state": "{state}"}}')
        assert shell.wait(20) == 0
