# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Power, automatic updates and time zone: what has to be set, decided from what is; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

UPDATE_DOMAIN = "/Library/Preferences/com.apple.SoftwareUpdate"
UPDATE_KEYS = (
    "AutomaticCheckEnabled",
    "AutomaticDownload",
    "AutomaticallyInstallMacOSUpdates",
    "CriticalUpdateInstall",
    "ConfigDataInstall",
)


def power(
    wanted: Mapping[str, int | str], present: Mapping[str, int | str], capabilities: Collection[str]
) -> tuple[dict[str, int | str], list[str]]:
    """({key: value} to set, [keys that this Mac does not know]). present: mac.parse.pmset of `pmset -g`."""
    unknown = sorted(key for key in wanted if key not in present and key not in capabilities)
    return (
        {
            key: value
            for key, value in wanted.items()
            if key not in unknown and str(present.get(key)) != str(value)
        },
        unknown,
    )


def updates(present: Mapping[str, bool | None]) -> list[str]:
    """Keys that are not switched off. present: {key: True, False or None}; unset, macOS's default is on."""
    return [key for key in UPDATE_KEYS if present.get(key) is not False]
