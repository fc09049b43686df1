"""site.yml as a whole: from bootstrapped Macs to answered prompts, and then nothing more to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import asked

pytestmark = pytest.mark.lab
HOST, STAGE = "tyo-02", "tyo-03"
SERVER = "/Library/LaunchDaemons/com.ds4fleet.server.plist"
#: Holds the engine's port for a minute and says by which process.
OCCUPY = """
import os, socket, time
taken = socket.socket()
# Ended connections of an engine that was there hold the port for a minute more.
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
taken.bind(("127.0.0.1", 8000))
taken.listen()
child = os.fork()
if child:
    print(child, flush=True)
    os._exit(0)
os.setsid()
for descriptor in range(3):
    os.close(descriptor)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def mac(make_lab: Callable[..., Any]) -> Any:
    """One Mac that needs a raised wired limit, bootstrapped."""
    lab = make_lab("hk-01")
    lab.ansible("playbooks/bootstrap.yml", "hk-01")
    return lab


@pytest.fixture
def untouched(mac: Any) -> Any:
    """The Mac, bootstrapped and nothing more."""
    return only_bootstrapped(mac, *found(mac, "hk-01"))


@pytest.fixture
def fresh(mac: Any) -> Any:
    """The same, perhaps with sources of the engine from runs that were refused."""
    engine = ("/opt/ds4/engine/", "/opt/ds4/engine")
    return only_bootstrapped(
        mac, *(path for path in found(mac, "hk-01") if not path.startswith(engine) and path != "/opt/ds4")
    )


def only_bootstrapped(mac: Any, *left: str) -> Any:
    """The Mac, or another one in its place where something is left on it."""
    if left:
        mac.another_mac("hk-01")
        mac.ansible("playbooks/bootstrap.yml", "hk-01")
    return mac


@pytest.fixture
def served(mac: Any) -> Any:
    """The Mac with its engine, serving."""
    if not mac.has("hk-01", SERVER):
        mac.ansible("site.yml", "hk-01")
    return mac


@pytest.fixture
def kept(mac: Any) -> Any:
    """The Mac after it served: its weights and its engine are there, and nothing runs."""
    if mac.has("hk-01", SERVER) or not mac.has("hk-01", "/opt/ds4/engine/current"):
        mac.ansible("site.yml", "hk-01")
        mac.ansible("playbooks/decommission.yml", "hk-01")
    return mac


def found(lab: Any, host: str) -> set[str]:
    """What site.yml left on a Mac, by path (bootstrap has a log of its own)."""
    listed = lab.exec(host, "/usr/bin/find", "/opt", "/Library/LaunchDaemons", "/etc/newsyslog.d", "/var/log")
    return {path for path in listed.splitlines() if "ds4" in path and "command-line-tools" not in path}


def ask(lab: Any, host: str, path: str, *curl: str) -> Any:
    return json.loads(lab.exec(host, "/usr/bin/curl", "-s", *curl, f"http://127.0.0.1:8000{path}"))


class TestFirstRun:
    def test_a_rehearsal_runs_through_on_a_bare_mac_and_changes_nothing(self, untouched):
        run = untouched.ansible("site.yml", "hk-01", "--check", "--diff")
        assert run.changed > 5
        assert "com.ds4fleet.server.plist" in run.output
        assert found(untouched, "hk-01") == set()

    @pytest.mark.parametrize(
        ("setting", "sentence"),
        [
            ("ds4_engine_commit=deadbeef12", "engine commit deadbeef12 does not exist"),
            ("ds4_model=gpt", "model 'gpt' is not in the catalogue"),
            ("ds4_context=1000000", "hk-01: flash-q2"),
            ("ds4_role=boss", "ds4_role must be one of"),
            ("ds4_port=high", "ds4_port"),
            ("ds4_listen_address=0.0.0.0", "ds4_listen_public_confirmed"),
        ],
    )
    def test_bad_input_is_one_sentence_before_the_first_change(self, fresh, setting, sentence):
        run = fresh.ansible("site.yml", "hk-01", "-e", setting, check=False)
        assert run.returncode != 0
        assert run.changed == 0
        (closing,) = [line for line in run.output.splitlines() if re.match(r"hk-01 .* stopped: ", line)]
        assert sentence in run.output and "Traceback" not in run.output
        assert closing
        assert {path for path in found(fresh, "hk-01") if not path.startswith("/opt/ds4/engine")} <= {
            "/opt/ds4"
        }

    def test_a_port_that_is_in_use_is_refused(self, fresh):
        pid = fresh.exec("hk-01", "/usr/bin/python3", "-c", OCCUPY).strip()
        run = fresh.ansible("site.yml", "hk-01", check=False)
        fresh.exec("hk-01", "/bin/kill", "-9", pid)
        assert run.returncode != 0
        assert "8000" in run.output and run.changed == 0

    def test_the_whole_path_ends_in_a_proven_answer(self, fresh):
        run = fresh.ansible("site.yml", "hk-01")
        assert run.recap["hk-01"]["failed"] == 0
        listed = ask(fresh, "hk-01", "/v1/models")["data"]
        assert {entry["name"] for entry in listed} == {"DeepSeek V4 Flash"}
        assert int(fresh.exec("hk-01", "/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb")) > 82703

    def test_a_second_run_changes_nothing(self, served):
        run = served.ansible("site.yml", "hk-01", "-vvv")
        assert run.changed == 0
        assert run.output.count("SSH: EXEC") == 1

    def test_it_serves_again_after_a_reboot_without_us(self, served):
        served.lab.reboot("hk-01")
        patient = ("--retry", "60", "--retry-delay", "1", "--retry-connrefused")
        assert ask(served, "hk-01", "/v1/models", *patient)["data"]
        assert served.ansible("site.yml", "hk-01").changed == 0

    def test_without_safe_mode_off_decommissioning_keeps_weights_and_engine(self, served):
        served.ansible("playbooks/decommission.yml", "hk-01")
        left = found(served, "hk-01")
        assert not [path for path in left if "com.ds4fleet" in path or path.endswith("server.conf")]
        assert [path for path in left if path.endswith(".gguf.stamp")]
        assert "/opt/ds4/engine/current" in left
        run = served.ansible("playbooks/decommission.yml", "hk-01")
        assert run.changed == 0

    def test_what_was_kept_is_taken_up_again(self, kept):
        begun = asked.now()
        kept.ansible("site.yml", "hk-01")
        asked_for = [f"{one['path']} {one['file']}" for one in asked.since(kept.folder, begun)]
        assert [words for words in asked_for if ".gguf" in words] == []

    def test_with_safe_mode_off_nothing_is_left(self, served):
        served.ansible("playbooks/decommission.yml", "hk-01", "-e", '{"ds4_safe_mode": false}')
        assert found(served, "hk-01") == set()
        assert served.exec("hk-01", "/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb").strip() == "0"


class TestConverged:
    def test_a_second_run_costs_one_look_at_each_mac(self, converged):
        run = converged.ansible("site.yml", "tokyo", "-vvv")
        assert run.changed == 0
        assert run.output.count("SSH: EXEC") == 3

    def test_a_rehearsal_has_nothing_to_say(self, converged):
        run = converged.ansible("site.yml", "tokyo", "--check", "--diff")
        assert run.changed == 0
        assert "+++" not in run.output

    def test_a_mac_that_only_stages_has_weights_and_no_server(self, converged):
        paths = found(converged, STAGE)
        assert [path for path in paths if path.endswith(".gguf.stamp")]
        assert "/Library/LaunchDaemons/com.ds4fleet.server.plist" not in paths
        assert "ds4-server" not in converged.exec(STAGE, "/bin/ps", "-axww")

    def test_stages_run_alone_by_their_tags(self, converged):
        settings = ("-e", "ds4_throttle_s=41")
        assert converged.ansible("site.yml", HOST, "--tags", "weights", *settings).changed == 0
        assert converged.ansible("site.yml", HOST, "--tags", "service", *settings).changed == 2
        assert converged.ansible("site.yml", HOST, "--tags", "service").changed == 2

    def test_staging_brings_the_next_model_beside_the_served_one(self, converged):
        before = converged.exec(HOST, "/usr/bin/pgrep", "-f", "ds4-server")
        run = converged.ansible("playbooks/prefetch.yml", HOST, "-e", "ds4_model=flash-q2")
        assert run.returncode == 0
        staged = converged.exec(HOST, "/bin/ls", "/opt/ds4/models")
        assert "chat-v2-imatrix.gguf" in str(staged)
        assert converged.exec(HOST, "/usr/bin/pgrep", "-f", "ds4-server") == before
        assert converged.ansible("site.yml", HOST).changed == 0

    def test_verify_proves_again_without_changing_anything(self, converged):
        run = converged.ansible("playbooks/verify.yml", HOST)
        assert run.changed == 0
        assert "Prove that the server answers as planned" in run.output
