"""What a tunnel of ours has to reach beside what was measured in the same run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.tunnel.contenders import BASELINE, ENDPOINT, TUNNEL, WIRE
from bench.tunnel.measure import Figures, quantile
from bench.tunnel.recovery import Recovery


@dataclass(frozen=True)
class Verdict:
    """One target: the figure, what is wanted of it, and whether it is reached (None: for information)."""

    what: str
    figure: str
    wanted: str
    reached: bool | None

    @property
    def mark(self) -> str:
        """For people."""
        return {True: "pass", False: "FALLS SHORT", None: ""}[self.reached]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def aes_in_hardware() -> bool:
    """Whether this machine, which is both ends here, does AES in hardware."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    lines = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    return any("aes" in line.split() for line in lines)


def of_rows(rows: Sequence[Figures], rtt_ms: float, fast_cipher: bool) -> Iterator[Verdict]:
    """The targets beside plain ssh -L and the wire at one distance."""
    named = {row.name: row for row in rows}
    base, wire = named.get(BASELINE), named.get(WIRE)
    for name in (TUNNEL, ENDPOINT):
        row = named.get(name)
        if row is None or base is None or base.failure:
            continue
        if row.failure:
            yield Verdict(f"{rtt_ms:g} ms, {name}", row.failure, "", False)
            continue
        where = f"{rtt_ms:g} ms, {name}:"
        # Over a distance the window is the limit and not the cipher.
        least = 1.2 if fast_cipher and rtt_ms == 0 else 0.95
        for streams in (1, 4):
            ratio = row.ratio(base, streams)
            text = f"{where} throughput, {streams} stream{'s' if streams > 1 else ''}"
            yield Verdict(text, f"{ratio:.2f} x ssh -L", f">= {least}", ratio >= least)
        more_ms = quantile(row.small_ms, 0.5) - quantile(base.small_ms, 0.5)
        yield Verdict(f"{where} small request, p50", f"ssh -L {more_ms:+.2f} ms", "<= +0.3", more_ms <= 0.3)
        if rtt_ms > 0 and wire is not None and not wire.failure:
            for share, most_ms in ((0.5, 3.0), (0.99, 10.0)):
                late_ms = quantile(row.event_ms, share) - quantile(wire.event_ms, share)
                text = f"{where} streamed event, p{share * 100:g}"
                yield Verdict(text, f"wire {late_ms:+.1f} ms", f"<= +{most_ms:g}", late_ms <= most_ms)


def of_recovery(found: Recovery) -> Iterator[Verdict]:
    """The targets for coming back. With distance a login takes nine round trips, whoever logs in."""
    near = found.rtt_ms == 0
    where = f"{found.rtt_ms:g} ms, {TUNNEL}:"
    for what, seconds, most_s, counts in (
        ("back after a kill of the transport", found.kill_s, 0.7, near),
        ("back after sshd of a rebooted host answers", found.reboot_s, 1.0, near),
        ("half-open link seen after", found.half_open_s, 4.0, True),
    ):
        text = "never" if seconds < 0 or math.isnan(seconds) else f"{seconds:.2f} s"
        reached = 0 <= seconds <= most_s
        wanted = f"<= {most_s:g} s" if counts else ""
        yield Verdict(f"{where} {what}", text, wanted, reached if counts else None)
