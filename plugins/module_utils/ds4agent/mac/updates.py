# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Power, automatic updates and time zone: what has to be set, decided from what is; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

UPDATE_DOMAIN = "/Library/Preferences/com.apple.SoftwareUpdate"
#: The switches of com.apple.SoftwareUpdate for each value of `ds4_updates`. ConfigDataInstall brings the data
#: of XProtect and CriticalUpdateInstall the security responses; both come only while checking is on. `hold`
#: keeps them, and holds back what restarts a Mac or changes its version of macOS.
WAYS: Mapping[str, Mapping[str, bool]] = {
    "hold": {
        "AutomaticCheckEnabled": True,
        "AutomaticDownload": False,
        "AutomaticallyInstallMacOSUpdates": False,
        "CriticalUpdateInstall": True,
        "ConfigDataInstall": True,
    },
    "off": {
        "AutomaticCheckEnabled": False,
        "AutomaticDownload": False,
        "AutomaticallyInstallMacOSUpdates": False,
        "CriticalUpdateInstall": False,
        "ConfigDataInstall": False,
    },
    "keep": {},
}
UPDATE_KEYS = tuple(WAYS["hold"])
#: `softwareupdate --schedule` says the same as this switch.
CHECKING = "AutomaticCheckEnabled"


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


def updates(present: Mapping[str, bool | None], way: str = "hold") -> dict[str, bool]:
    """{key: value} to set. present: {key: True, False or None}; an unset switch is on, as macOS has it."""
    return {key: on for key, on in WAYS[way].items() if (present.get(key) is not False) != on}


def update_commands(wanted: Mapping[str, bool]) -> list[tuple[str, ...]]:
    """The commands that set `wanted`: the name of a program as mac.run knows it, and its arguments."""
    commands: list[tuple[str, ...]] = []
    if CHECKING in wanted:
        commands.append(("softwareupdate", "--schedule", "on" if wanted[CHECKING] else "off"))
    for key, on in wanted.items():
        commands.append(("defaults", "write", UPDATE_DOMAIN, key, "-bool", "true" if on else "false"))
    return commands


def updates_sentence(wanted: Mapping[str, bool]) -> str:
    """`wanted` for a list of steps: "automatic updates: CriticalUpdateInstall on, AutomaticDownload off"."""
    words = ["%s %s" % (key, "on" if on else "off") for key, on in wanted.items()]
    return "automatic updates: " + ", ".join(words)
