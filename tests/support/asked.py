"""What the simulated upstreams were asked for, by the moment when a request began."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

_ROUNDED_S = 0.002


def since(folder: Path, moment: float = 0.0) -> list[dict[str, Any]]:
    """Requests to the lab in `folder` that began at `moment` (seconds since 1970) or later, in that order.

    The log has a line when an answer is over: that of a request which a power cut broke off comes late,
    perhaps among those of the next run.
    """
    log = folder / "upstreams" / "requests.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    asked = [json.loads(line) for line in lines]
    return sorted((one for one in asked if _began(one) >= moment - _ROUNDED_S), key=_began)


def now() -> float:
    """The moment for `since`: requests that begin from here on."""
    return time.time()


def _began(request: dict[str, Any]) -> float:
    return float(request["time"]) - float(request["seconds"])
