"""The server under launchd: restarted only for a reason, refusing in words, its log kept small."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.lab
HOST = "tyo-02"
LABEL = "com.ds4fleet.server"
LOG = "/var/log/ds4/server.log"


@pytest.fixture
def mac(converged: Any) -> Iterator[Any]:
    yield converged
    converged.ansible("site.yml", HOST)


def pid(lab: Any) -> str:
    printed = lab.exec(HOST, "/bin/launchctl", "print", f"system/{LABEL}", check=False)
    return next((line.split(" = ")[1] for line in printed.splitlines() if line.startswith("\tpid = ")), "")


def wait_for(condition: Any, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_run_without_a_reason_leaves_the_process(mac):
    before = pid(mac)
    mac.ansible("site.yml", HOST)
    assert pid(mac) == before != ""


def test_a_changed_setting_restarts_it_once_and_drained(mac):
    before = pid(mac)
    mac.ansible("site.yml", HOST, "-e", "ds4_throttle_s=33")
    after = pid(mac)
    assert after not in ("", before)
    assert "shutdown requested, draining requests" in mac.exec(HOST, "/usr/bin/tail", "-n", "40", LOG)


@contextlib.contextmanager
def asking_in_the_drain(mac: Any) -> Iterator[list[str]]:
    """A client of the Mac itself, past all tunnels, that asks for a long answer once the drain has begun;
    what it has heard is in the list afterwards.
    """
    words = " ".join(["word"] * 4000)
    asked = {"messages": [{"role": "user", "content": f"Reply with exactly: {words}"}], "stream": True}
    body = json.dumps({**asked, "think": False, "max_tokens": 9000})
    script = f"""n=0
    until [ -e /opt/ds4/var/switch/drain.json ] || [ $((n += 1)) -gt 1200 ]; do sleep 0.1; done
    exec curl -sN -d '{body}' http://127.0.0.1:8000/v1/chat/completions"""
    heard: list[str] = []
    client = threading.Thread(
        target=lambda: heard.append(mac.exec(HOST, "/bin/sh", "-c", script, check=False))
    )
    client.start()
    yield heard
    client.join()


def test_a_restart_waits_for_the_answer_that_is_under_way(mac):
    before = pid(mac)
    with asking_in_the_drain(mac) as heard:
        run = mac.ansible("site.yml", HOST, "-e", "ds4_throttle_s=35")
        assert pid(mac) != before
    assert "[DONE]" in heard[0]
    assert "were notified that the engine stops" not in " ".join(run.output.split())


def test_who_is_left_at_the_end_of_the_drain_time_is_counted(mac):
    with asking_in_the_drain(mac) as heard:
        run = mac.ansible("site.yml", HOST, "-e", "ds4_throttle_s=36", "-e", "ds4_drain_s=4")
    assert "word" in heard[0] and "[DONE]" not in heard[0]
    said = " ".join(run.output.split())
    assert "1 clients were still at work after 4 s" in said
    assert "no endpoint is in front of them: curl of root" in said


def test_a_prompt_that_no_client_waits_for_is_not_read_to_its_end(mac):
    """200,000 tokens at 100 a second take half an hour, and another such prompt waits behind them."""
    body = json.dumps({"messages": [{"role": "user", "content": "word " * 200_000}], "max_tokens": 1})
    ask = ["/usr/bin/curl", "-s", "-d", "@-", "http://127.0.0.1:8000/v1/chat/completions"]
    speed = mac.lab.root(HOST) / ".lab" / "run" / "engine.conf"
    speed.write_text("prefill_tps=100\n")
    clients = [
        threading.Thread(target=lambda: mac.lab.exec(HOST, ask, input_text=body, timeout_s=300))
        for _ in range(2)
    ]
    try:
        for client in clients:
            client.start()
        wait_for(lambda: "prompt start" in mac.exec(HOST, "/usr/bin/tail", "-n", "1", LOG), 60)
        run = mac.ansible("site.yml", HOST, "-e", "ds4_throttle_s=37", "-e", "ds4_drain_s=2")
    finally:
        speed.unlink()
    said = " ".join(run.output.split())
    assert f"{LABEL} was killed at a prompt that no client waits for any more" in said
    assert "2 clients were still at work after 2 s" in said and run.recap[HOST]["failed"] == 0
    for client in clients:
        client.join(60)
        assert not client.is_alive()


@pytest.mark.parametrize(
    "fault", ["slow-bootout", "bootout-in-progress", "bootstrap-error", "run-at-load-lost"]
)
def test_launchds_moods_do_not_reach_the_operator(mac, fault):
    mac.lab.fault(HOST, fault)
    try:
        run = mac.ansible("site.yml", HOST, "-e", "ds4_throttle_s=34")
    finally:
        mac.lab.fault(HOST, fault, on=False)
    assert run.recap[HOST]["failed"] == 0
    assert pid(mac)


def test_it_runs_without_rights_and_its_configuration_is_out_of_its_reach(mac):
    assert mac.exec(HOST, "/bin/ps", "-o", "user=", "-p", pid(mac)).strip() == "_ds4"
    write = ["/usr/bin/sudo", "-u", "_ds4", "/bin/sh", "-c", "echo >>/opt/ds4/etc/server.conf"]
    assert mac.lab.exec(HOST, write).returncode != 0
    for path in ("/opt/ds4/models", "/opt/ds4/engine", "/opt/ds4/libexec"):
        assert mac.lab.exec(HOST, ["/usr/bin/sudo", "-u", "_ds4", "/usr/bin/touch", f"{path}/x"]).returncode


def test_touched_weights_are_refused_in_one_line_and_healed_by_the_next_run(mac):
    (weights,) = mac.exec(HOST, "/bin/sh", "-c", "ls /opt/ds4/models/*0731.gguf").split()
    mac.exec(HOST, "/usr/bin/touch", weights)
    mac.exec(HOST, "/bin/launchctl", "kickstart", "-k", f"system/{LABEL}")
    wait_for(lambda: "REFUSE: " in mac.exec(HOST, "/usr/bin/tail", "-n", "1", LOG))
    assert f"REFUSE: weights {weights} changed after they were proven" in mac.exec(
        HOST, "/usr/bin/tail", "-n", "1", LOG
    )
    wait_for(lambda: "78: EX_CONFIG" in mac.exec(HOST, "/bin/launchctl", "print", f"system/{LABEL}"))
    mac.ansible("site.yml", HOST)
    assert pid(mac)


def test_the_log_is_put_away_under_a_running_server(mac):
    before = pid(mac)
    inode = mac.exec(HOST, "/usr/bin/stat", "-f", "%i", LOG)
    fill = f"head -c 11000000 /dev/zero | tr '\\0' x >>{LOG}"
    mac.exec(HOST, "/bin/sh", "-c", fill)
    mac.exec(HOST, "/bin/launchctl", "kickstart", "system/com.ds4fleet.logs")
    wait_for(lambda: int(mac.exec(HOST, "/usr/bin/stat", "-f", "%z", LOG)) < 1_000_000)
    assert int(mac.exec(HOST, "/usr/bin/stat", "-f", "%z", "/var/log/ds4/server.archive.log")) > 11_000_000
    mac.exec(HOST, "/usr/bin/curl", "-s", "-X", "POST", "-d", '{"messages":[{"role":"user","content":"hi"}]}',
             "http://127.0.0.1:8000/v1/chat/completions")  # fmt: skip
    assert "chat ctx=" in mac.exec(HOST, "/bin/cat", LOG)
    assert mac.exec(HOST, "/usr/bin/stat", "-f", "%i", LOG) == inode
    assert pid(mac) == before
