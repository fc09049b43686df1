"""The measurements, each through one local address."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

TIMEOUT_S = 15.0


@dataclass
class Figures:
    """What was measured of one contender at one distance; milliseconds, MB/s (10^6), MiB, seconds."""

    name: str
    rtt_ms: float
    small_ms: list[float] = field(default_factory=list)
    first_bytes_ms: list[float] = field(default_factory=list)
    event_ms: list[float] = field(default_factory=list)
    mb_s: dict[int, list[float]] = field(default_factory=dict)
    memory_mib: float = 0.0
    back_s: float | None = None
    failure: str = ""

    def cells(self, base: Figures | None) -> list[str]:
        """The row of the table, as far as it came; ratios beside `base` of the same run."""
        cells = [f"{self.name}: {self.failure}" if self.failure else self.name]
        for streams in (1, 4):
            rates = self.mb_s.get(streams)
            cells.append(_rate(statistics.median(rates)) if rates else "")
            known = rates and base is not None and base.mb_s.get(streams)
            cells.append(f"{self.ratio(base, streams):.2f}" if known and base else "")
        for values, shares in ((self.small_ms, (0.5, 0.99)), (self.first_bytes_ms, (0.5,))):
            cells += [f"{quantile(values, share):.2f}" if values else "" for share in shares]
        cells += [f"{quantile(self.event_ms, share):.1f}" if self.event_ms else "" for share in (0.5, 0.99)]
        cells += [f"{self.memory_mib:.0f} MiB" if self.memory_mib else ""]
        cells += ["" if self.back_s is None else "never" if self.back_s < 0 else f"{self.back_s:.2f} s"]
        return cells

    def ratio(self, base: Figures, streams: int) -> float:
        """Median over the rounds of this one's throughput beside the base's of the same round."""
        pairs = zip(self.mb_s[streams], base.mb_s[streams], strict=False)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with the quantiles beside the raw figures left out."""
        data = asdict(self)
        for name in ("small_ms", "event_ms", "first_bytes_ms"):
            values = data.pop(name)
            if values:
                data[f"{name}_p50"] = round(quantile(values, 0.5), 3)
                data[f"{name}_p99"] = round(quantile(values, 0.99), 3)
        return data


def _rate(mb_s: float) -> str:
    return f"{mb_s:.0f}" if mb_s >= 10 else f"{mb_s:.1f}"


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def _open(host: str, port: int, path: str) -> socket.socket:
    sock = socket.create_connection((host, port), timeout=TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
    return sock


def _small(host: str, port: int) -> float:
    """One request on a new connection, until its answer is complete by its Content-Length."""
    began = time.perf_counter()
    with _open(host, port, "/v1/models") as sock:
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"]}"):
            data = sock.recv(65536)
            if not data:
                raise OSError("a small request was not answered")
            answer += data
    return (time.perf_counter() - began) * 1000


def small_ms(host: str, port: int, count: int, parallel: int) -> list[float]:
    """Milliseconds of `count` small requests, `parallel` at a time."""
    times: list[float] = []
    failures: list[Exception] = []

    def work(share: int) -> None:
        try:
            for _ in range(share):
                times.append(_small(host, port))
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(count // parallel,)) for _ in range(parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise OSError(f"{len(failures)} of {parallel} clients failed: {failures[0]}")
    return times


def first_byte_ms(host: str, port: int) -> float:
    """Milliseconds from connecting to the first byte of a stream."""
    began = time.perf_counter()
    with _open(host, port, "/v1/completions?count=1&gap_ms=0") as sock:
        sock.recv(1)
        return (time.perf_counter() - began) * 1000


def event_delays_ms(host: str, port: int, count: int, gap_ms: float = 20.0) -> list[float]:
    """How long each event was under way: both ends read the same clock of this machine."""
    delays: list[float] = []
    with _open(host, port, f"/v1/completions?count={count}&gap_ms={gap_ms}") as sock:
        rest = b""
        while data := sock.recv(65536):
            now = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            delays += [
                (now - float(line.split()[1])) * 1000
                for line in lines
                if line.startswith(b"data: ") and b"DONE" not in line
            ]
    if len(delays) != count:
        raise OSError(f"{count - len(delays)} of {count} events were lost")
    return delays


def bulk_mb_s(host: str, port: int, streams: int, seconds: float) -> float:
    """MB/s over `streams` connections together, after the first half second (slow start, ramp-up)."""
    counts = [0] * streams
    ready = threading.Barrier(streams + 1)
    stop = threading.Event()
    failures: list[Exception] = []

    def read(index: int) -> None:
        buffer = bytearray(1 << 20)
        try:
            with _open(host, port, "/bulk?bytes=100000000000") as sock:
                ready.wait(TIMEOUT_S)
                while not stop.is_set():
                    got = sock.recv_into(buffer)
                    if not got:
                        raise OSError("a bulk stream ended early")
                    counts[index] += got
        except (OSError, threading.BrokenBarrierError) as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(index,), daemon=True) for index in range(streams)]
    for thread in threads:
        thread.start()
    ready.wait(TIMEOUT_S)
    time.sleep(0.5)
    before, began = sum(counts), time.perf_counter()
    time.sleep(seconds)
    rate = (sum(counts) - before) / (time.perf_counter() - began) / 1e6
    stop.set()
    for thread in threads:
        thread.join(5)
    if failures:
        raise OSError(str(failures[0]))
    return rate
