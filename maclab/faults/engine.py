"""Faults of the stand-in engine (maclab/engine/src looks for them)."""

from __future__ import annotations

from maclab.faults.base import EngineFault

METAL_NIL = EngineFault(
    "metal-nil", "daemons get no Metal device, as seen outside a GUI session", "reference 2.10"
)
MAKE_FAILS = EngineFault(
    "make-fails", "the compiler stops with an error in the engine's sources", "upstream's issues"
)
