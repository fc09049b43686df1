"""Faults of power: the locked boot, sleep, and what takes a Mac down."""

from __future__ import annotations

from maclab.faults.base import Momentary, PowerFault, Saved, Target


class FilevaultLocked(PowerFault):
    """FileVault is a property of the Mac; PID 1 looks at it when it boots."""

    def shape(self, mac: Saved, on: bool) -> None:
        mac.filevault = "on" if on else "off"


class Asleep(PowerFault):
    """The Mac falls asleep now, or is woken."""

    needs_running = True

    def inside(self, target: Target, on: bool) -> None:
        target.tell("sleep" if on else "wake")


class PowerCut(Momentary):
    """The power fails and comes back."""

    def happen(self, target: Target) -> None:
        target.power_cut()


class Reboot(Momentary):
    """The Mac is shut down in order and boots again."""

    def happen(self, target: Target) -> None:
        target.reboot()


FILEVAULT_LOCKED = FilevaultLocked(
    "filevault-locked",
    "FileVault is on: after a reboot the Mac waits for a password login over ssh before any daemon starts",
    "reference 6",
)
ASLEEP = Asleep(
    "asleep",
    "the Mac sleeps: nothing runs on it until somebody connects (with womp) or wakes it",
    "reference 6",
)
POWER_CUT = PowerCut(
    "power-cut",
    "the power fails without warning and comes back; what was not synced to an added volume is gone",
    "any building",
)
REBOOT = Reboot("reboot", "the Mac is rebooted", "macOS updates")
