"""What a fleet of hundreds costs the controller; see `bench/scale/run.py`."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
