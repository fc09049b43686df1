"""Faults of the stand-in engine (maclab/engine/src looks for them)."""

from __future__ import annotations

from maclab.faults.base import EngineFault

CODE_SIGNATURE = EngineFault(
    "code-signature",
    "macOS refuses the code signature of the engine that launchd starts: killed,"
    " with OS_REASON_CODESIGNING as the reason that launchctl prints",
    "public launchctl outputs of 2026-10 (B)",
)
JETSAM = EngineFault(
    "jetsam",
    "macOS takes the memory of the engine that launchd starts back once its weights are loaded: killed,"
    " with JETSAM_REASON_MEMORY_VMPAGESHORTAGE as the reason that launchctl prints",
    "public launchctl outputs of 2026-10 (B)",
)
METAL_NIL = EngineFault(
    "metal-nil", "daemons get no Metal device, as seen outside a GUI session", "reference 2.10"
)
MAKE_FAILS = EngineFault(
    "make-fails", "the compiler stops with an error in the engine's sources", "upstream's issues"
)
