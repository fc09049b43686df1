"""A Mac and the fake upstreams: engine of github.com, weights of huggingface.co, memory that bites."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from maclab import HostSpec, Lab
from maclab.errors import LabError
from tests.support.lab_shell import Shell

pytestmark = pytest.mark.lab

HOST = "mac-01"
HARDWARE = {
    "model": "Mac15,14",
    "chip": "Apple M3 Ultra",
    "memory_gb": 96,
    "storage_gb": 1000,
    "form": "Mac Studio",
}
RELEASE = "/private/tmp/ds4"
HUB = "https://huggingface.co/antirez/deepseek-v4-gguf/resolve/main"
SMALL = "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"
TOOLS = """
touch /tmp/.com.apple.dt.CommandLineTools.installondemand.in-progress
label=$(softwareupdate -l 2>&1 | sed -n 's|^\\* Label: \\(Command.*\\)$|\\1|p' | tail -1)
softwareupdate -i "$label"
"""
PLIST = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>Label</key><string>test.ds4</string><key>ProgramArguments</key><array>
<string>/private/tmp/ds4/ds4-server</string></array><key>WorkingDirectory</key><string>/private/tmp/ds4</string>
<key>StandardErrorPath</key><string>/private/tmp/test.log</string></dict></plist>
"""


class Mac(Shell):
    """One Mac with the engine of July, built, and its weights."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, HOST, "HOME=/private/tmp")

    def daemon_log(self) -> str:
        """What a server that launchd starts says until it listens or ends."""
        self.ok(
            "rm -f /private/tmp/test.log; cat > /Library/LaunchDaemons/test.ds4.plist <<'P'\n" + PLIST + "P"
        )
        self.ok("chmod 644 /Library/LaunchDaemons/test.ds4.plist")
        self.ok("launchctl bootstrap system /Library/LaunchDaemons/test.ds4.plist")
        self.ok("launchctl kickstart system/test.ds4")
        deadline = time.monotonic() + 10
        try:
            while time.monotonic() < deadline:
                log = self.sh("cat /private/tmp/test.log").stdout
                if "listening on" in log or "aborting" in log:
                    return str(log)
                time.sleep(0.05)
            raise AssertionError(f"the server said nothing: {log}")
        finally:
            self.ok("launchctl bootout system/test.ds4; rm /Library/LaunchDaemons/test.ds4.plist")

    def until_back(self) -> None:
        """Wait until the Mac has started again."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                self.ok("true")
                return
            except (LabError, AssertionError):
                time.sleep(0.1)
        raise AssertionError("the Mac did not come back")


@pytest.fixture(scope="module")
def mac() -> Iterator[Mac]:
    folder = Path(tempfile.mkdtemp(prefix="ds4-"))
    lab = Lab(folder, name=folder.name)
    try:
        lab.up(hosts=[HostSpec(HOST, "tokyo", HARDWARE)])
        ready = Mac(lab)
        ready.ok(TOOLS)
        ready.ok(f"git clone -q https://github.com/antirez/ds4 {RELEASE}")
        ready.ok(f"cd {RELEASE}; git checkout -q lab/july; make -s; ./download_model.sh q2-imatrix")
        yield ready
    finally:
        lab.down()
        assert not folder.exists()


def test_the_build_is_one_for_metal(mac: Mac) -> None:
    assert "/Metal.framework/" in mac.ok(f"otool -L {RELEASE}/ds4-server")


def test_the_stock_limit_of_96_gb_is_too_low_and_a_raised_one_serves(mac: Mac) -> None:
    prompt = f"cd {RELEASE}; ./ds4 -p 'What is 2+2?' --nothink --temp 0"
    mac.ok("sysctl iogpu.wired_limit_mb=0")
    done = mac.sh(prompt)
    assert (done.returncode, "Insufficient Memory" in done.stderr) == (1, True)
    mac.ok("sysctl iogpu.wired_limit_mb=94208")
    done = mac.sh(prompt)
    assert (done.returncode, done.stdout) == (0, "4\n")
    assert "ds4: Metal device Apple M3 Ultra, 96.00 GiB RAM" in done.stderr


def test_a_daemon_serves_and_has_its_memory_wired(mac: Mac) -> None:
    mac.ok("sysctl iogpu.wired_limit_mb=94208")
    assert "listening on http://127.0.0.1:8000" in mac.daemon_log()


def test_daemons_can_be_without_a_device(mac: Mac) -> None:
    mac.ok("sysctl iogpu.wired_limit_mb=94208")
    mac.lab.fault(HOST, "metal-nil")
    try:
        assert "Metal device not available" in mac.daemon_log()
        assert mac.ok(f"cd {RELEASE}; ./ds4 -p 2+2 --nothink") == "4\n"
    finally:
        mac.lab.fault(HOST, "metal-nil", on=False)


def test_a_build_can_be_made_to_fail(mac: Mac) -> None:
    mac.lab.fault(HOST, "make-fails")
    try:
        done = mac.sh(f"cd /private/tmp; rm -rf copy; cp -R {RELEASE} copy; cd copy; make clean all")
        assert done.returncode == 2
        assert "make-fails" in done.stderr
    finally:
        mac.lab.fault(HOST, "make-fails", on=False)
    assert mac.sh(f"{RELEASE}/ds4 --help").returncode == 0


def test_a_cpu_build_takes_the_mac_down_and_it_starts_again(mac: Mac) -> None:
    mac.ok("sysctl iogpu.wired_limit_mb=94208")
    mac.ok(
        f"rm -rf /private/tmp/cpu; cp -R {RELEASE} /private/tmp/cpu; cd /private/tmp/cpu; make -s clean cpu"
    )
    boots = mac.lab.status()[0].boots
    with pytest.raises(LabError):
        mac.sh("cd /private/tmp/cpu; ./ds4 -m ../ds4/ds4flash.gguf -p 2+2 --nothink")
    mac.until_back()
    assert mac.lab.status()[0].boots == boots + 1
    assert "iogpu.wired_limit_mb: 0" in mac.ok("sysctl iogpu.wired_limit_mb")


@pytest.mark.parametrize(
    ("fault", "command", "status"),
    [
        ("outage", "git ls-remote https://github.com/antirez/ds4", 128),
        ("outage", f"curl -sfI {HUB}/{SMALL}", 35),
        ("missing-revision", f"curl -sfI {HUB}/{SMALL}", 22),
        ("download-429", f"curl -sfI {HUB}/{SMALL}", 22),
        ("download-416", f"curl -sfL -r 0-9 {HUB}/{SMALL}", 22),
    ],
)
def test_the_upstreams_fail_for_one_mac_on_demand(mac: Mac, fault: str, command: str, status: int) -> None:
    mac.lab.fault(HOST, fault)
    try:
        assert mac.sh(command).returncode == status
    finally:
        mac.lab.fault(HOST, fault, on=False)
    assert mac.sh(command).returncode == 0


def test_wrong_bytes_arrive_with_the_right_length(mac: Mac) -> None:
    fetch = f"curl -sfL {HUB}/{SMALL} | tee /private/tmp/x | wc -c; shasum -a 256 /private/tmp/x"
    right = mac.ok(fetch)
    mac.lab.fault(HOST, "download-corrupt")
    try:
        wrong = mac.ok(fetch)
    finally:
        mac.lab.fault(HOST, "download-corrupt", on=False)
    assert wrong.split()[0] == right.split()[0]
    assert wrong.split()[1] != right.split()[1]
    assert re.fullmatch(r"[0-9a-f]{64}", right.split()[1])
