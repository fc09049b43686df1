"""Faults of launchd and of the mounts at boot."""

from __future__ import annotations

from maclab.faults.base import LaunchdFault

SLOW_BOOTOUT = LaunchdFault(
    "slow-bootout",
    "a job that was booted out stays in the list for 8 s after its process has ended;"
    " bootstrap answers 5 meanwhile",
    "reference 2.3",
)
BOOTOUT_IN_PROGRESS = LaunchdFault(
    "bootout-in-progress",
    "bootout answers 36 (operation now in progress) while the process is still dying",
    "reference 2.3",
)
BOOTSTRAP_ERROR = LaunchdFault(
    "bootstrap-error",
    "the next bootstrap answers 5 although nothing is wrong; the one after that works",
    "reference 2.3",
)
RUN_AT_LOAD_LOST = LaunchdFault(
    "run-at-load-lost", "bootstrap loads a RunAtLoad job but does not start it", "reference 2.3"
)
LOGIN_ITEM_BLOCKED = LaunchdFault(
    "login-item-blocked",
    "somebody switched the job off in Login Items: bootstrap answers 161",
    "reference 2.9",
)
FSTAB_GONE = LaunchdFault(
    "fstab-gone",
    "/etc/fstab is taken away at every boot, as by an update of macOS:"
    " added volumes come up at /Volumes/NAME",
    "NixOS/nix#7106",
)
FSTAB_IGNORED = LaunchdFault(
    "fstab-ignored", "volumes that fstab names are not mounted at boot", "reference 1.7 (B)"
)
VOLUME_ELSEWHERE = LaunchdFault(
    "volume-elsewhere",
    "added volumes come up at /Volumes/NAME whatever fstab says, and Spotlight holds them for some seconds",
    "NixOS/nix#2925",
)
