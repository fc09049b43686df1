"""The lab itself: boots, ends without a trace, several at once, life and death of a Mac, links."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.layout import CHECKOUT
from maclab import HostSpec, Lab, preflight
from maclab.errors import LabError
from maclab.faults import FAULTS

pytestmark = pytest.mark.lab

HARDWARE = {
    "model": "Mac16,11",
    "chip": "Apple M4 Pro",
    "memory_gb": 64,
    "storage_gb": 2000,
    "form": "Mac mini",
}
#: What both systems have in /etc, a Mac its own.
OF_A_MACS_ETC = [
    name
    for name in ("fstab", "group", "hosts", "localtime", "pam.d", "passwd", "shadow", "ssh", "ssl", "sudoers")
    if Path("/etc", name).exists()
]
DAEMON = "/Library/LaunchDaemons/org.example.job.plist"


def specs(count: int) -> list[HostSpec]:
    return [HostSpec(f"mac-{number:02}", "tokyo", HARDWARE) for number in range(1, count + 1)]


@contextmanager
def a_lab(count: int) -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="ds4-core-"))
    lab = Lab(folder)
    try:
        lab.up(hosts=specs(count))
        lab.tie()
        yield lab
    finally:
        lab.down()
        assert not folder.exists()


@pytest.fixture(scope="module")
def booted() -> Iterator[Lab]:
    with a_lab(2) as started:
        yield started


@pytest.fixture
def lab(booted: Lab) -> Lab:
    """Two Macs that are awake and stay so, however long a test takes."""
    for host in ("mac-01", "mac-02"):
        with booted.locked_mac(host) as mac:
            mac.power.settings["sleep"] = 0
        press_a_key(booted, host)
    return booted


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def sh(lab: Lab, host: str, script: str) -> subprocess.CompletedProcess[str]:
    return lab.exec(host, ["/bin/sh", "-c", script])


def address(lab: Lab, host: str) -> str:
    return next(row.address for row in lab.status() if row.name == host)


# ------------------------------------------------------------------------------------------ what is left


@dataclass
class Traces:
    """What this machine has of a lab: processes, their namespaces, loop devices, mounts, interfaces."""

    processes: dict[int, str] = field(default_factory=dict)
    namespaces: set[str] = field(default_factory=set)
    loops: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, lab: Lab) -> Traces:
        supervisor = lab.supervisor_pid
        tree = descendants(supervisor)
        own = namespaces(os.getpid())
        found = cls(processes={pid: started(pid) for pid in tree})
        for pid in tree:
            found.namespaces |= namespaces(pid) - own
        found.loops = bound_loops(lab.folder)
        return found

    def left(self) -> list[str]:
        alive = [f"process {pid}" for pid, start in self.processes.items() if start and started(pid) == start]
        everywhere: set[str] = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                everywhere |= namespaces(int(entry.name))
        return alive + sorted(self.namespaces & everywhere)


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def started(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def namespaces(pid: int) -> set[str]:
    """The namespaces of a process; none of one that is dead and only waits for init to notice."""
    found = set()
    for kind in ("net", "mnt", "pid", "uts", "ipc") if started(pid) else ():
        try:
            found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
        except OSError:
            continue
    return found


def bound_loops(folder: Path) -> set[str]:
    found = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if path.read_text().startswith(str(folder)):
                found.add(path.parts[3])
        except OSError:
            continue
    return found


def loop_devices() -> set[str]:
    return {path.name for path in Path("/sys/block").glob("loop*")}


def left_behind(used: set[str], before: set[str]) -> set[str]:
    """Devices of a lab that is gone that were not here before it; one that another lab has taken over is not
    meant.
    """
    return (used & loop_devices()) - bound_loops(Path("/")) - before


def outside() -> dict[str, object]:
    """What no lab may change: own mounts, named namespaces, settings, the operator's home. Of /etc what a Mac
    has too, and of /run not what sshd wants: other tests, and people, are at work on this machine meanwhile.
    """
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "mounts": mounts,
        "netns": sorted(str(path) for path in Path("/run").glob("netns/*")),
        "etc": {name: Path("/etc", name).lstat().st_mtime_ns for name in OF_A_MACS_ETC},
        "run": sorted({path.name for path in Path("/run").iterdir()} - {"sshd"}),
        "forward": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "home": sorted(path.name for path in Path.home().iterdir()),
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the operator's that nobody else uses."""
    preflight.remote_python()  # may be one in the true home, and is remembered
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("home")
class TestEnd:
    def test_down_leaves_nothing(self) -> None:
        before, loops_before = outside(), loop_devices()
        with a_lab(2) as lab:
            lab.link("mac-01", rtt_ms=10)
            lab.link("operator", rtt_ms=10)
            traces, interface = Traces.of(lab), lab.interface
            assert len(traces.processes) > 4
            assert traces.loops
            assert interface in dict(map(reversed, socket.if_nameindex()))
        assert traces.left() == []
        assert bound_loops(lab.folder) == set()
        assert left_behind(traces.loops, loops_before) == set()
        assert interface not in [name for _, name in socket.if_nameindex()]
        assert outside() == before
        assert not lab.folder.exists()

    def test_down_after_everything_was_killed_leaves_nothing(self) -> None:
        before, loops_before = outside(), loop_devices()
        with a_lab(2) as lab:
            lab.link("operator", rtt_ms=10)
            traces, interface = Traces.of(lab), lab.interface
            for pid in reversed(list(traces.processes)):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        assert traces.left() == []
        assert bound_loops(lab.folder) == set()
        assert left_behind(traces.loops, loops_before) == set()
        assert interface not in [name for _, name in socket.if_nameindex()]
        assert outside() == before
        assert not lab.folder.exists()

    def test_a_lab_that_died_comes_up_again(self) -> None:
        with a_lab(1) as lab:
            sh(lab, "mac-01", "echo kept > /Users/admin/note")
            os.kill(lab.supervisor_pid, signal.SIGKILL)
            wait_for(lambda: not lab.supervisor_pid)
            lab.up(hosts=specs(1))
            assert sh(lab, "mac-01", "cat /Users/admin/note").stdout == "kept\n"

    def test_a_tied_lab_ends_with_its_process(self) -> None:
        script = (
            "import os, sys; from pathlib import Path; from maclab import HostSpec, Lab;"
            "lab = Lab(Path(sys.argv[1])); lab.up(hosts=[HostSpec('mac-01', 'tokyo', {})]);"
            "lab.tie(); os.kill(os.getpid(), 9)"
        )
        folder = Path(tempfile.mkdtemp(prefix="ds4-core-"))
        try:
            subprocess.run([sys.executable, "-c", script, str(folder)], cwd=CHECKOUT, check=False)
            wait_for(lambda: not Lab(folder).supervisor_pid)
        finally:
            Lab(folder).down()
            assert not folder.exists()

    def test_down_of_nothing_is_no_error(self, tmp_path: Path) -> None:
        Lab(tmp_path / "never").down()


class TestSeveral:
    def test_two_labs_do_not_see_each_other(self, lab: Lab) -> None:
        with a_lab(1) as other:
            assert address(other, "mac-01").rpartition(".")[0] != address(lab, "mac-01").rpartition(".")[0]
            sh(lab, "mac-01", "touch /Users/Shared/mine")
            assert sh(other, "mac-01", "ls /Users/Shared").stdout == ""
            dial = f"exec 3<>/dev/tcp/{address(lab, 'mac-01')}/22"
            assert sh(other, "mac-01", dial).returncode != 0
        assert lab.exec("mac-01", ["/bin/echo", "here"]).stdout == "here\n"

    def test_a_device_that_one_left_to_another_goes_with_that_one(self) -> None:
        before = loop_devices()
        with ExitStack() as first:
            # More than a machine has devices without being asked for more.
            other = first.enter_context(a_lab(9))
            with a_lab(1) as lab:
                newest = max(bound_loops(other.folder), key=lambda name: int(name.removeprefix("loop")))
                image = Path("/sys/block", newest, "loop", "backing_file").read_text()
                other.take_out([Path(image).parents[1].name])
                lab.up(hosts=specs(2))
                first.close()
                used = bound_loops(lab.folder)
        # Somebody else may have been quicker; where nobody is, it is the one that was left.
        assert left_behind({newest} | used, before) == set()


@pytest.mark.usefixtures("home")
class TestTogether:
    def test_commands_at_the_same_time_make_one_lab(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="ds4-core-"))
        one, two = specs(2)
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda spec: Lab(folder).up(hosts=[spec]), (one, two)))
            assert [row.running for row in Lab(folder).status()] == [True, True]
            assert len({address(Lab(folder), spec.name) for spec in (one, two)}) == 2
        finally:
            Lab(folder).down()
            assert not folder.exists()

    def test_single_macs_are_taken_out_and_the_lab_ends_with_the_last(self) -> None:
        with a_lab(2) as lab:
            loops = bound_loops(lab.folder)
            lab.take_out(["mac-01"])
            assert [(row.name, row.running) for row in lab.status()] == [("mac-02", True)]
            assert "mac-01" not in lab.inventory_path.read_text() + lab.known_hosts_path.read_text()
            assert not lab.mac_folder("mac-01").exists() and bound_loops(lab.folder) < loops
            assert sh(lab, "mac-02", "echo here").stdout == "here\n"
            lab.up(hosts=specs(2))
            assert [row.running for row in lab.status()] == [True, True]
            lab.take_out(["mac-01", "mac-02"])
            assert not lab.folder.exists()

    @pytest.mark.parametrize("step", ["connect_operator", "free_subnet"])
    def test_down_ends_what_an_up_started_that_was_killed(self, step: str) -> None:
        script = (
            "import os, sys; from pathlib import Path; from maclab import HostSpec, Lab;"
            "from maclab.network import net;"
            f"net.{step} = lambda *_: os.kill(os.getpid(), 9);"
            "Lab(Path(sys.argv[1])).up(hosts=[HostSpec('mac-01', 'tokyo', {})])"
        )
        before = outside()
        folder = Path(tempfile.mkdtemp(prefix="ds4-core-"))
        done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=CHECKOUT, check=False)
        assert done.returncode == -signal.SIGKILL
        (supervisor, *_) = supervisors(folder)
        Lab(folder).down()
        assert supervisors(folder) == []
        assert started(supervisor) == ""
        assert outside() == before
        assert not folder.exists()


def supervisors(folder: Path) -> list[int]:
    """Processes that name this lab's folder on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


class TestScale:
    def test_24_macs_fit_in_two_gigabytes(self) -> None:
        """How long they take to boot is a figure of bench/lab."""
        with a_lab(24) as lab:
            assert sum(proportional_kib(pid) for pid in descendants(lab.supervisor_pid)) <= 2 << 20


def proportional_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


# ------------------------------------------------------------------------------------------------ a Mac


class TestMac:
    def test_neither_home_nor_checkout_of_the_operator_is_visible(self, lab: Lab) -> None:
        listing = sh(lab, "mac-01", "ls -a / /Users").stdout
        assert "work" not in listing.split()
        for path in (Path.home(), Path(__file__).resolve().parents[2]):
            assert sh(lab, "mac-01", f"ls {path}/").returncode != 0

    def test_a_program_hears_darwin(self, lab: Lab) -> None:
        assert sh(lab, "mac-01", "uname -sm").stdout == "Darwin arm64\n"

    def test_orphans_are_reaped(self, lab: Lab) -> None:
        sh(lab, "mac-01", "(sleep 0.1 &) ; (sleep 0.1 &)")
        wait_for(lambda: " Z " not in zombies(lab))

    def test_killing_the_client_kills_the_command(self, lab: Lab) -> None:
        script = "launchctl kickstart -kp system/org.example.slow & sleep 0.2; kill -9 $!; wait $!; echo $?"
        assert sh(lab, "mac-01", script).stdout.strip().endswith(("137", "113"))

    def test_reboot_forgets_the_wired_limit_and_keeps_files(self, lab: Lab) -> None:
        sh(lab, "mac-02", "sysctl iogpu.wired_limit_mb=1234; echo kept > /opt/note")
        boots = {row.name: row.boots for row in lab.status()}["mac-02"]
        lab.reboot("mac-02")
        assert sh(lab, "mac-02", "sysctl -n iogpu.wired_limit_mb; cat /opt/note").stdout == "0\nkept\n"
        assert {row.name: row.boots for row in lab.status()}["mac-02"] == boots + 1

    def test_a_job_hears_a_shutdown_but_not_a_power_cut(self, lab: Lab) -> None:
        install_job(
            lab, "mac-02", "trap 'echo stopped; exit 0' TERM; echo started; while :; do sleep 0.05; done"
        )
        log = "cat /var/log/job.log"
        wait_for(lambda: sh(lab, "mac-02", log).stdout == "started\n")
        lab.power_cut("mac-02")
        wait_for(lambda: sh(lab, "mac-02", log).stdout == "started\nstarted\n")
        lab.reboot("mac-02")
        wait_for(lambda: sh(lab, "mac-02", log).stdout == "started\nstarted\nstopped\nstarted\n")
        remove_job(lab, "mac-02")

    def test_reset_makes_another_mac_with_another_host_key(self, lab: Lab) -> None:
        before = lab.known_hosts_path.read_text()
        sh(lab, "mac-02", "echo gone > /opt/note")
        lab.reset("mac-02")
        assert sh(lab, "mac-02", "cat /opt/note").returncode != 0
        assert lab.known_hosts_path.read_text() != before

    def test_a_locked_mac_starts_nothing_until_a_password_login(self, lab: Lab) -> None:
        lab.fault("mac-02", "filevault-locked")
        lab.reboot("mac-02")
        try:
            assert "com.openssh.sshd" not in sh(lab, "mac-02", "launchctl list").stdout
            assert password_login(lab, "mac-02", "echo in").stdout == ""
            wait_for(lambda: "com.openssh.sshd" in sh(lab, "mac-02", "launchctl list").stdout)
            assert password_login(lab, "mac-02", "echo in").stdout == "in\n"
        finally:
            lab.fault("mac-02", "filevault-locked", on=False)


class TestSleep:
    """Idle Macs whose minutes are short; what decides is held by tests/unit/maclab/test_sleep.py."""

    @pytest.fixture
    def idle(self, lab: Lab) -> Iterator[Lab]:
        for host in ("mac-01", "mac-02"):
            sh(lab, host, "rm -f /private/tmp/ticks")
            with lab.locked_mac(host) as mac:
                mac.power.settings["sleep"] = 1
        yield lab
        for host in ("mac-01", "mac-02"):
            with lab.locked_mac(host) as mac:
                mac.power.minute_s = 60.0
                mac.power.settings.update(sleep=0, womp=1)
            press_a_key(lab, host)
            remove_job(lab, host)

    @pytest.mark.parametrize(
        ("setting", "job"), [("sleep 0", "sleep 1000"), ("sleep 1", "caffeinate -i sleep 1000")]
    )
    def test_an_idle_mac_goes_quiet_unless_something_keeps_it_awake(
        self, idle: Lab, setting: str, job: str
    ) -> None:
        install_job(idle, "mac-02", "exec sleep 1000")
        install_job(idle, "mac-01", f"exec {job}")
        assert sh(idle, "mac-01", f"pmset -a {setting}").returncode == 0
        wait_for(lambda: standing(idle, "mac-01", "sleep 1000"))
        # Minutes of mac-01 are half as long: it would be asleep first.
        shorten_minutes(idle, "mac-01", 0.3)
        shorten_minutes(idle, "mac-02", 0.6)
        wait_for(lambda: standing(idle, "mac-02", "sleep 1000") == ["T"])
        assert standing(idle, "mac-01", "sleep 1000") == ["S"]
        assert password_login(idle, "mac-02", "echo awake").stdout == "awake\n"
        wait_for(lambda: standing(idle, "mac-02", "sleep 1000") == ["T"])

    def test_without_womp_nothing_but_a_key_wakes_it(self, idle: Lab) -> None:
        sh(idle, "mac-02", "pmset -a womp 0")
        ticks = idle.root("mac-02") / "private/tmp/ticks"
        every_second = {"KeepAlive": False, "StartInterval": 1, "ThrottleInterval": 1}
        install_job(idle, "mac-02", "echo tick >> /private/tmp/ticks", **every_second)
        wait_for(ticks.exists)
        shorten_minutes(idle, "mac-02", 0.3)
        log = idle.folder / "log" / "mac-02.log"
        wait_for(lambda: "Entering Sleep state" in log.read_text().rpartition("Wake from")[2])
        quiet = ticks.read_text()
        # The second after which launchd would be at it again passes here.
        with pytest.raises(OSError, match=r"timed out|No route"):
            socket.create_connection((address(idle, "mac-02"), 22), timeout=1.5)
        assert ticks.read_text() == quiet
        with idle.locked_mac("mac-02") as mac:
            mac.power.settings["sleep"] = 0
        press_a_key(idle, "mac-02")
        wait_for(lambda: ticks.read_text() != quiet)
        assert password_login(idle, "mac-02", "echo awake").stdout == "awake\n"
        # The line of the default route (proc(5)).
        wait_for(lambda: "en0\t00000000\t" in sh(idle, "mac-02", "cat /proc/net/route").stdout)


def shorten_minutes(lab: Lab, host: str, minute_s: float) -> None:
    """Nobody waits a minute of a sleep timer here."""
    with lab.locked_mac(host) as mac:
        mac.power.minute_s = minute_s
    press_a_key(lab, host)


def press_a_key(lab: Lab, host: str) -> None:
    lab.fault(host, "asleep", on=False)


def standing(lab: Lab, host: str, command: str) -> list[str]:
    """The states (proc(5)) of the processes with that command line: T stands still. Seen from outside, since
    a look from inside would be stopped too.
    """
    found = []
    for pid in descendants(lab.pid_of(host)):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if " ".join(words).strip() == command:
                found.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return found


def zombies(lab: Lab) -> str:
    return sh(lab, "mac-01", 'for p in /proc/[0-9]*/stat; do read -r line < $p && echo "$line"; done').stdout


def remove_job(lab: Lab, host: str) -> None:
    sh(lab, host, f"launchctl bootout system/org.example.job; rm -f {DAEMON} /var/log/job.log")
    wait_for(lambda: sh(lab, host, "launchctl print system/org.example.job").returncode == 113)


def install_job(lab: Lab, host: str, script: str, **keys: Any) -> None:
    import plistlib

    job = {
        "Label": "org.example.job",
        "ProgramArguments": ["/bin/sh", "-c", script],
        "KeepAlive": True,
        "StandardOutPath": "/var/log/job.log",
        **keys,
    }
    path = lab.root(host) / DAEMON[1:]
    path.write_bytes(plistlib.dumps(job))
    done = sh(lab, host, f"launchctl bootstrap system {DAEMON}")
    assert done.returncode == 0, done.stderr


def password_login(lab: Lab, host: str, command: str) -> subprocess.CompletedProcess[str]:
    askpass = {"SSH_ASKPASS": str(lab.askpass_path), "SSH_ASKPASS_REQUIRE": "force"}
    argv = lab.ssh_command(host)
    argv[1:1] = ["-o", "PubkeyAuthentication=no"]
    return subprocess.run(
        [*argv, command],
        env={**os.environ, **askpass},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class TestFaults:
    @pytest.fixture(autouse=True)
    def whole_again(self, booted: Lab) -> Iterator[None]:
        yield
        for name in sh(booted, "mac-01", "ls /.lab/run/faults").stdout.split():
            booted.fault("mac-01", name, on=False)
        remove_job(booted, "mac-01")

    def test_there_are_at_least_twenty_and_each_is_explained(self) -> None:
        assert len(FAULTS) >= 20
        assert all(len(fault.does) > 10 and fault.source for fault in FAULTS.values())

    def test_a_typing_error_names_the_nearest(self, lab: Lab) -> None:
        with pytest.raises(LabError, match="slow-bootout"):
            lab.fault("mac-01", "slow-botout")

    def test_stay_over_a_reboot(self, lab: Lab) -> None:
        lab.fault("mac-01", "metal-nil")
        lab.reboot("mac-01")
        assert sh(lab, "mac-01", "ls /.lab/run/faults").stdout == "metal-nil\n"
        lab.fault("mac-01", "metal-nil", on=False)
        assert sh(lab, "mac-01", "ls /.lab/run/faults").stdout == ""

    def test_one_that_needs_a_mac_that_is_up_is_refused_while_it_is_off(self, lab: Lab) -> None:
        lab.power_cut("mac-01", boot_again=False)
        try:
            with pytest.raises(LabError, match="disk-full needs a Mac that is up: mac-01 is off"):
                lab.fault("mac-01", "disk-full")
            lab.fault("mac-01", "metal-nil")  # this one waits for the next boot
        finally:
            lab.power_on("mac-01")
        assert sh(lab, "mac-01", "ls /.lab/run/faults").stdout == "metal-nil\n"
        lab.fault("mac-01", "metal-nil", on=False)

    def test_slow_bootout_keeps_the_label_busy(self, lab: Lab) -> None:
        lab.fault("mac-01", "slow-bootout")
        install_job(lab, "mac-01", "exec sleep 1000")
        assert sh(lab, "mac-01", "launchctl bootout system/org.example.job").returncode == 0
        time.sleep(0.5)
        assert sh(lab, "mac-01", f"launchctl bootstrap system {DAEMON}").returncode == 5
        wait_for(lambda: sh(lab, "mac-01", "launchctl print system/org.example.job").returncode == 113)
        lab.fault("mac-01", "slow-bootout", on=False)

    def test_bootstrap_error_happens_once(self, lab: Lab) -> None:
        remove_job(lab, "mac-01")
        lab.fault("mac-01", "bootstrap-error")
        with pytest.raises(AssertionError, match="Input/output error"):
            install_job(lab, "mac-01", "exec sleep 1000")
        assert sh(lab, "mac-01", f"launchctl bootstrap system {DAEMON}").returncode == 0


# ------------------------------------------------------------------------------------------------- links


@pytest.fixture
def plain(lab: Lab) -> Iterator[Lab]:
    yield lab
    lab.link("mac-01")


def connect_s(lab: Lab) -> float:
    """Seconds for a TCP connection, which is one round trip."""
    began = time.monotonic()
    socket.create_connection((address(lab, "mac-01"), 22), timeout=10).close()
    return time.monotonic() - began


class TestLinks:
    @pytest.mark.parametrize("rtt_ms", [20, 150])
    def test_delay_is_one_round_trip_per_connection(self, plain: Lab, rtt_ms: int) -> None:
        connect_s(plain)
        plain.link("mac-01", rtt_ms=rtt_ms)
        connect_s(plain)  # and the neighbour's hardware address
        took_ms = [connect_s(plain) * 1000 for _ in range(7)]
        # Never sooner; how much later a busy machine makes it is no property of the link.
        assert rtt_ms <= min(took_ms) <= 2 * rtt_ms + 30

    def test_jitter_comes_on_top_of_the_delay(self, plain: Lab) -> None:
        plain.link("mac-01", rtt_ms=20, jitter_ms=60)
        connect_s(plain)
        took_ms = [connect_s(plain) * 1000 for _ in range(12)]
        # Of twelve throws the least and the greatest lie closer together once in thirty thousand times.
        assert min(took_ms) >= 20
        assert max(took_ms) - min(took_ms) >= 12

    def test_the_operators_link_delays_every_mac(self, plain: Lab) -> None:
        plain.link("operator", rtt_ms=60)
        try:
            connect_s(plain)
            took_ms = [connect_s(plain) * 1000 for _ in range(7)]
            assert 60 <= min(took_ms) <= 150
        finally:
            plain.link("operator")
        assert min(connect_s(plain) for _ in range(7)) < 0.05

    def test_bandwidth_limits_what_tcp_carries(self, plain: Lab) -> None:
        plain.link("mac-01", mbps=40)
        assert 10 <= goodput_mbps(plain, 6_000_000) <= 40

    def test_loss_loses_packets(self, plain: Lab) -> None:
        plain.link("mac-01", loss=0.2)
        sent, received = udp_echoes(plain, 400)
        # Both ways: 1 - 0.8 * 0.8 = 36 % are expected to be missing.
        assert 0.5 * sent <= received <= 0.78 * sent

    def test_a_link_that_is_down_carries_nothing(self, plain: Lab) -> None:
        plain.fault("mac-01", "link-down")
        try:
            with pytest.raises(TimeoutError):
                socket.create_connection((address(plain, "mac-01"), 22), timeout=1.5)
        finally:
            plain.fault("mac-01", "link-down", on=False)
        wait_for(lambda: connect_s(plain) < 1)

    def test_without_a_limit_it_carries_more_than_a_limited_one(self, plain: Lab) -> None:
        plain.link("mac-01", rtt_ms=0.001)
        assert goodput_mbps(plain, 100_000_000) > 40

    def test_stays_over_a_reboot(self, plain: Lab) -> None:
        plain.link("mac-01", rtt_ms=40)
        plain.reboot("mac-01")
        connect_s(plain)
        assert connect_s(plain) >= 0.04


SINK = """
import socket, sys, time
listener = socket.create_server(("0.0.0.0", 7001))
print("ready", flush=True)
link, _ = listener.accept()
buffer, total, began = bytearray(1 << 20), 0, None
while n := link.recv_into(buffer):
    began = began or time.monotonic()
    total += n
print(total, time.monotonic() - began, flush=True)
"""
ECHO = """
import socket
box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
box.bind(("0.0.0.0", 7002))
print("ready", flush=True)
while True:
    data, who = box.recvfrom(2000)
    if data == b"end":
        break
    box.sendto(data, who)
"""


@contextmanager
def in_mac(lab: Lab, script: str) -> Iterator[subprocess.Popen[str]]:
    """A Python script in the network of mac-01, past the simulated tool chain."""
    command = ["nsenter", f"--net=/proc/{lab.pid_of('mac-01')}/ns/net", "python3", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def goodput_mbps(lab: Lab, size_bytes: int) -> float:
    with in_mac(lab, SINK) as sink:
        with socket.create_connection((address(lab, "mac-01"), 7001), timeout=30) as link:
            piece = bytes(1 << 20)
            for start in range(0, size_bytes, len(piece)):
                link.sendall(piece[: size_bytes - start])
        assert sink.stdout is not None
        total, seconds = sink.stdout.readline().split()
    assert int(total) == size_bytes
    return int(total) * 8 / float(seconds) / 1e6


def udp_echoes(lab: Lab, count: int) -> tuple[int, int]:
    with in_mac(lab, ECHO), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as box:
        box.settimeout(0.05)
        # Learn the neighbour's address first: its questions may be lost too.
        for _ in range(50):
            box.sendto(b"first", (address(lab, "mac-01"), 7002))
            try:
                box.recv(2000)
                break
            except TimeoutError:
                continue
        received = 0
        box.settimeout(0.02)
        for number in range(count):
            box.sendto(str(number).encode(), (address(lab, "mac-01"), 7002))
            try:
                while box.recv(2000) != str(number).encode():
                    continue
                received += 1
            except TimeoutError:
                continue
    return count, received
