"""Measures tunnels to an engine a long way off, one beside the other, in one run.

    sudo .venv/bin/python -m bench.tunnel.run

prints a table for each distance, and what is wanted of our tunnels beside what they reached.

Two network namespaces stand for the operator's machine and the Mac; between them the lab's link delays every
packet (maclab/csrc/link.c), so that TCP's windows, Nagle's algorithm and delayed acknowledgements act
as they do over an ocean. The far side runs an sshd with the role's restrictions and `far_end.py`. Peers that
are not installed (see the README beside this file) are left out and named.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.tunnel import contenders, recovery, targets
from bench.tunnel.measure import Figures, bulk_mb_s, event_delays_ms, first_byte_ms, small_ms
from maclab.network.link import LinkSettings, open_tap

NEAR, FAR = "10.77.0.1", "10.77.0.2"
ENGINE_PORT = 8000
SSH_PORT = 22
HERE = Path(__file__).resolve().parent
LINK_SOURCE = HERE.parent.parent / "maclab" / "csrc" / "link.c"
CLONE_NEWNET = 0x40000000


def enter(namespace: int) -> None:
    """Moves this (single) thread into a network namespace."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Far:
    """The Mac's side: namespace, link, sshd, engine. Everything ends with `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[Any]] = []
        program = folder / "link"
        subprocess.run(["cc", "-O2", "-o", str(program), str(LINK_SOURCE)], check=True)
        keeper = self._start(["unshare", "-n", "sleep", "infinity"])
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        path = Path(f"/proc/{keeper.pid}/ns/net")
        deadline = time.monotonic() + 5
        while path.readlink() == Path("/proc/self/ns/net").readlink():
            if time.monotonic() > deadline:
                raise TimeoutError("no second namespace")
            time.sleep(0.01)
        self.inside = ["nsenter", f"--net={path}"]
        near = open_tap("near")
        there = os.open(path, os.O_RDONLY)
        enter(there)
        far = open_tap("far")
        enter(here)
        self.link = subprocess.Popen(
            [str(program), str(near), str(far), LinkSettings().line],
            stdin=subprocess.PIPE,
            pass_fds=(near, far),
        )
        self.processes.append(self.link)
        for words in (["lo", "up"], ["near", "up"]):
            subprocess.run(["ip", "link", "set", *words], check=True)
        subprocess.run(["ip", "addr", "add", f"{NEAR}/24", "dev", "near"], check=True)
        for words in (
            ["link", "set", "lo", "up"],
            ["link", "set", "far", "up"],
            ["addr", "add", f"{FAR}/24", "dev", "far"],
        ):
            subprocess.run([*self.inside, "ip", *words], check=True)
        for port, address in ((ENGINE_PORT, "127.0.0.1"), (ENGINE_PORT, FAR)):
            engine = [sys.executable, str(HERE / "far_end.py"), str(port), address]
            process = self._start([*self.inside, *engine], stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
        self._prepare_sshd()
        self.sshd: subprocess.Popen[Any] | None = None
        self.start_sshd()

    def _start(self, argv: list[str], **options: Any) -> subprocess.Popen[Any]:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def _prepare_sshd(self) -> None:
        for name in ("key", "host_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(command, check=True)
        public = (self.folder / "key.pub").read_text()
        wait = self.folder / "wait"
        wait.write_text("#!/bin/sh\nexec cat >/dev/null\n")
        wait.chmod(0o755)
        allowed = f'restrict,pty,port-forwarding,permitopen="127.0.0.1:{ENGINE_PORT}",command="{wait}"'
        (self.folder / "authorized_keys").write_text(f"{allowed} {public}")
        host_key = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"{FAR} {host_key}bench,bench-2 {host_key}")
        config = self.folder / "sshd_config"
        config.write_text(
            f"HostKey {self.folder}/host_key\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPermitRootLogin yes\nMaxStartups 100\n"
        )

    def start_sshd(self) -> None:
        """sshd listens, seen from its own side of the link."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd"
        config = self.folder / "sshd_config"
        command = [*self.inside, sshd, "-D", "-f", str(config), "-p", str(SSH_PORT)]
        self.sshd = self._start(command, stderr=subprocess.DEVNULL)
        ask = [*self.inside, sys.executable, "-m", "bench.tunnel.contenders", "127.0.0.1", str(SSH_PORT)]
        deadline = time.monotonic() + 10
        while subprocess.run(ask, check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise TimeoutError("the far sshd does not answer")

    def stop_sshd(self) -> None:
        """sshd and its sessions are gone."""
        assert self.sshd is not None
        for pid in reversed(contenders.family(self.sshd.pid)):
            with suppress(ProcessLookupError):  # one half of sshd ends with the other
                os.kill(pid, signal.SIGKILL)
        self.sshd.wait()

    def set_rtt(self, rtt_ms: float) -> None:
        """From now on packets take half of rtt_ms in each direction."""
        assert self.link.stdin is not None
        self.link.stdin.write(LinkSettings(rtt_ms=rtt_ms).line.encode() + b"\n")
        self.link.stdin.flush()

    def set_down(self, down: bool, rtt_ms: float) -> None:
        """The link loses everything, or carries again."""
        assert self.link.stdin is not None
        self.link.stdin.write(LinkSettings(rtt_ms=rtt_ms, down=down).line.encode() + b"\n")
        self.link.stdin.flush()

    def close(self) -> None:
        """Ends all processes of the far side, sessions of a killed sshd too."""
        namespace = Path(f"/proc/{self.processes[0].pid}/ns/net").readlink()
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and (entry / "ns" / "net").readlink() == namespace:
                    os.kill(int(entry.name), signal.SIGKILL)
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def in_namespace() -> None:
    """Starts this program again in a network namespace of its own."""
    if os.environ.get("DS4_BENCH_INSIDE") == "1":
        return
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        sys.exit("bench/tunnel needs root on Linux (network namespaces); run it with sudo.")
    environment = {**os.environ, "DS4_BENCH_INSIDE": "1"}
    argv = ["unshare", "-n", sys.executable, "-m", "bench.tunnel.run", *sys.argv[1:]]
    os.execvpe("unshare", argv, environment)


Start = Callable[[], contenders.Contender]


def measure(starts: dict[str, Start], rtt_ms: float, options: argparse.Namespace) -> list[Figures]:
    """All figures at one distance. The contenders stand at the same time and take turns, so that whatever
    else this machine does meets all of them."""
    rows = {name: Figures(name, rtt_ms) for name in starts}
    parallel = 1 if rtt_ms == 0 else options.parallel
    with ExitStack() as stack:
        standing = {}
        for name, start in starts.items():
            with failing(rows[name]):
                standing[name] = stack.enter_context(contenders.running(start()))
                first_byte_ms(standing[name].host, standing[name].port)
        block = 10 if parallel == 1 else 5 * parallel
        for _ in range(options.requests // block):
            for name, one in well(standing, rows):
                with failing(rows[name]):
                    rows[name].small_ms += small_ms(one.host, one.port, block, parallel)
        for _ in range(options.rounds):
            for name, one in well(standing, rows):
                row = rows[name]
                with failing(row):
                    row.first_bytes_ms += [first_byte_ms(one.host, one.port) for _ in range(3)]
                    row.event_ms += event_delays_ms(one.host, one.port, options.events // options.rounds)
                    for streams in (1, 4):
                        rate = bulk_mb_s(one.host, one.port, streams, options.seconds)
                        row.mb_s.setdefault(streams, []).append(rate)
                    row.memory_mib = one.memory_mib()
    return list(rows.values())


def well(
    standing: dict[str, contenders.Contender], rows: dict[str, Figures]
) -> list[tuple[str, contenders.Contender]]:
    """Those that have not failed yet: the others would only cost their time limit again and again."""
    return [(name, one) for name, one in standing.items() if not rows[name].failure]


def measure_kills(starts: dict[str, Start], rows: list[Figures], limit_s: float) -> None:
    """How soon each is back after its connection was killed."""
    for row in rows:
        if row.failure:
            continue
        with failing(row), contenders.running(starts[row.name]()) as one:
            if one.can_be_killed:
                time.sleep(1.5)
                row.back_s = one.outage_s(limit_s)


@contextmanager
def failing(row: Figures) -> Iterator[None]:
    """What goes wrong with a contender is a finding, not the end of the run."""
    try:
        yield
    except (OSError, TimeoutError) as error:
        row.failure = row.failure or f"{type(error).__name__}: {error}"


def show(console: Console, rows: list[Figures], rtt_ms: float) -> None:
    """One table, with ratios beside plain ssh -L of the same run."""
    base = next((row for row in rows if row.name == contenders.BASELINE), None)
    table = Table(title=f"round trip {rtt_ms:g} ms", title_justify="left", box=None, header_style="bold")
    columns = (
        "contender", "MB/s", "x ssh -L", "4 streams", "x", "small p50", "p99 ms", "first byte",
        "event p50", "p99 ms", "memory", "after a kill",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "contender" else "right")
    for row in rows:
        table.add_row(*row.cells(base))
    console.print(table)


def show_targets(console: Console, verdicts: list[targets.Verdict]) -> None:
    """What is wanted of our tunnels beside what they reached."""
    table = Table(title="wanted and reached", title_justify="left", box=None, header_style="bold")
    for column in ("what", "measured", "wanted", ""):
        table.add_column(column)
    for verdict in verdicts:
        table.add_row(verdict.what, verdict.figure, verdict.wanted, verdict.mark)
    console.print(table)


def load() -> str:
    """How busy the machine is, in words."""
    busy = " ".join(f"{one:.2f}" for one in os.getloadavg())
    return f"load average {busy} on {os.cpu_count()} processors"


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ds4-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rtt-ms", type=float, nargs="+", default=[0.0, 100.0])
    parser.add_argument("--contenders", nargs="+", default=list(contenders.ALL))
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--parallel", type=int, default=20, help="small requests at once where they wait")
    parser.add_argument("--events", type=int, default=201)
    parser.add_argument("--seconds", type=float, default=0.8, help="of bulk transfer, each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--no-recovery", action="store_true", help="leave out kill, reboot and half-open link"
    )
    parser.add_argument("--outage-limit-s", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Runs every contender at every distance and prints tables."""
    options = arguments()
    in_namespace()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=150, highlight=False)
    found: list[Figures] = []
    verdicts: list[targets.Verdict] = []
    recoveries: list[recovery.Recovery] = []
    fast_cipher = targets.aes_in_hardware()
    began = time.monotonic()
    console.print(f"before: {load()}; AES in hardware: {'yes' if fast_cipher else 'no'}")
    with workplace() as folder:
        os.environ["DS4_FLEET_STATE"] = str(folder / "s")
        far = Far(folder)
        try:
            for rtt_ms in options.rtt_ms:
                far.set_rtt(rtt_ms)
                starts: dict[str, Start] = {}
                for name in options.contenders:
                    make, missing = contenders.ALL[name](folder, FAR, SSH_PORT, ENGINE_PORT)
                    if missing:
                        console.print(f"{name}: left out, {missing}")
                    else:
                        starts[name] = make
                rows = measure(starts, rtt_ms, options)
                if rtt_ms == 0 and not options.no_recovery:
                    measure_kills(starts, rows, options.outage_limit_s)
                show(console, rows, rtt_ms)
                found += rows
                verdicts += targets.of_rows(rows, rtt_ms, fast_cipher)
                if not options.no_recovery:
                    recoveries.append(recovery.measure(folder, far, (FAR, SSH_PORT, ENGINE_PORT), rtt_ms))
                    verdicts += targets.of_recovery(recoveries[-1])
        finally:
            far.close()
    show_targets(console, verdicts)
    console.print(f"after {time.monotonic() - began:.0f} s: {load()}")
    if options.json:
        content = {
            "contenders": [row.to_dict() for row in found],
            "recovery": [one.to_dict() for one in recoveries],
            "targets": [one.to_dict() for one in verdicts],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    # Some peers leave threads behind that would keep this process from ending.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
