# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""The disks of this Mac, and the single steps that ds4_storage is made of."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Collection
from typing import TYPE_CHECKING

from .. import naming
from . import aside as mac_aside
from . import parse, safe, volumes
from .run import poll, run
from .tree import describe

if TYPE_CHECKING:
    from ..shapes import FoundVolume, VolumeFacts, WantedVolume
    from .run import Result

FSTAB = volumes.FSTAB
NEVER_INDEX = ".metadata_never_index"
# nix-installer: mds, fseventsd and shells let go of a volume within seconds.
DELETE_TRIES_S = 5


def read_fstab(path: str = FSTAB) -> str:
    try:
        return safe.read(path).decode("utf-8")
    except FileNotFoundError:
        return ""


def why(result: Result) -> str:
    """A sentence on a diskutil command that failed; who holds the volume is worth more than an error code."""
    held = parse.holder(result.out + result.err)
    return "the volume is in use by %s: stop it and run again" % held if held else result.sentence()


class Storage:
    """The disks of this Mac as diskutil and mount show them, and the steps on one volume."""

    def __init__(self, root: str) -> None:
        self.listed = naming.volumes(root)
        self.containers = parse.apfs_containers(self.command("apfs", "list", "-plist").out)
        boot = parse.volume_info(self.command("info", "-plist", "/").out)
        self.boot_container = boot["container"]

    def command(self, *arguments: str) -> Result:
        """A diskutil command; Refusal with its own words when it fails without an answer."""
        result = run("diskutil", *arguments)
        if not result.ok and "<plist" not in result.out:
            raise volumes.Refusal(why(result))
        return result

    def reread(self) -> None:
        self.containers = parse.apfs_containers(self.command("apfs", "list", "-plist").out)

    def facts(self, volume: FoundVolume | None, place: str = "") -> VolumeFacts:
        """What decide() wants to know of an existing volume, and of the place where it belongs."""
        facts: VolumeFacts = {
            "mount_point": "",
            "owners_enabled": None,
            "never_index": False,
            "root": None,
            "fstab": read_fstab(),
            "listed": read_fstab(self.listed),
            "beneath": "",
        }
        if volume is not None:
            info = parse.volume_info(self.command("info", "-plist", volume["device"]).out)
            facts["mount_point"], facts["owners_enabled"] = info["mount_point"], info["owners_enabled"]
        if facts["mount_point"]:
            root = describe(facts["mount_point"])
            facts["root"] = {"owner": root["owner"], "group": root["group"], "mode": root["mode"]}
            facts["never_index"] = os.path.lexists(os.path.join(facts["mount_point"], NEVER_INDEX))
        if place and place != facts["mount_point"]:
            try:
                facts["beneath"] = mac_aside.beneath(place)
            except ValueError as error:
                raise volumes.Refusal(str(error)) from None
        return facts

    def others(self, names: Collection[str]) -> list[tuple[FoundVolume, str]]:
        """[(volume, where it is mounted)] of this Mac without those of these names."""
        points = {item["device"]: item["mount_point"] for item in parse.mounts(run("mount").out)}
        return [
            (volume, points.get(volume["device"], ""))
            for _container, volume in volumes.flat(self.containers)
            if volume["name"] not in names
        ]

    def clear(self, wanted: WantedVolume, volume: FoundVolume | None) -> None:
        """Unmount what is at the wanted place: one that goes to a place of its own in the same run."""
        for item in parse.mounts(run("mount").out):
            own = volume is not None and item["device"] == volume["device"]
            if item["mount_point"] == wanted["mount_point"] and not own:
                self.command("unmount", item["mount_point"])

    def aside(self, wanted: WantedVolume, _volume: FoundVolume | None) -> None:
        mac_aside.put_aside(wanted["mount_point"])

    def create(self, wanted: WantedVolume, _volume: FoundVolume | None) -> None:
        container = volumes.container_for(wanted, self.containers, self.boot_container)
        volumes.check_room(wanted, container)
        self.clear(wanted, None)
        os.makedirs(wanted["mount_point"], mode=0o755, exist_ok=True)
        result = run("diskutil", *volumes.create_arguments(wanted, container))
        # It may report failure although the volume exists and only mounting failed: the list decides.
        self.reread()
        _container, volume = volumes.find(wanted, self.containers)
        if volume is None:
            raise volumes.Refusal(result.sentence())
        if self.facts(volume)["mount_point"] != wanted["mount_point"]:
            self.mount(wanted, volume)

    def unmount(self, _wanted: WantedVolume, volume: FoundVolume) -> None:
        self.command("unmount", volume["uuid"])

    def mount(self, wanted: WantedVolume, volume: FoundVolume) -> None:
        if self.facts(volume)["mount_point"]:
            self.unmount(wanted, volume)
        self.clear(wanted, volume)
        os.makedirs(wanted["mount_point"], mode=0o755, exist_ok=True)
        self.command("mount", "-mountPoint", wanted["mount_point"], volume["uuid"])
        if self.facts(volume)["mount_point"] != wanted["mount_point"]:
            raise volumes.Refusal("volume %s did not come up at %s" % (volume["name"], wanted["mount_point"]))

    def owners(self, wanted: WantedVolume, volume: FoundVolume) -> None:
        if self.facts(volume)["owners_enabled"] is False:
            self.command("enableOwnership", wanted["mount_point"])

    def never_index(self, wanted: WantedVolume, _volume: FoundVolume) -> None:
        # A volume may come with anything on it, so the marker is neither followed nor waited for.
        marker = os.path.join(wanted["mount_point"], NEVER_INDEX)
        if not os.path.lexists(marker):
            os.close(safe.open_file(marker, os.O_WRONLY | os.O_CREAT, 0o644))
        states = parse.mdutil(run("mdutil", "-s", wanted["mount_point"]).out)
        if states.get(wanted["mount_point"]) is not False:
            # The marker holds by itself; a failing mdutil (Spotlight switched off) is no reason to stop.
            run("mdutil", "-i", "off", wanted["mount_point"])

    def root(self, wanted: WantedVolume, _volume: FoundVolume) -> None:
        root = volumes.root_of(wanted)
        try:
            uid, gid = pwd.getpwnam(root["owner"] or "").pw_uid, grp.getgrnam(root["group"] or "").gr_gid
        except KeyError as error:
            raise volumes.Refusal("volume %s: %s" % (wanted["name"], error.args[0])) from error
        safe.keep_folder(wanted["mount_point"], int(root["mode"] or "0755", 8), uid, gid)

    def fstab(self, wanted: WantedVolume, volume: FoundVolume) -> None:
        os.makedirs(os.path.dirname(self.listed), mode=0o755, exist_ok=True)
        for path in (FSTAB, self.listed):
            text = read_fstab(path)
            after = volumes.with_fstab_entry(text, volume["uuid"], wanted["mount_point"])
            if after != text:
                write_fstab(after, path)

    def delete(self, wanted: WantedVolume, volume: FoundVolume) -> None:
        last: list[Result] = []

        same: WantedVolume = {**wanted, "uuid": volume["uuid"], "name": ""}

        def gone() -> bool:
            last[:] = [run("diskutil", "apfs", "deleteVolume", volume["uuid"])]
            self.reread()
            return volumes.find(same, self.containers)[1] is None

        if not poll(gone, DELETE_TRIES_S, 0.5):
            raise volumes.Refusal(why(last[0]))


def write_fstab(text: str, path: str = FSTAB) -> None:
    """Replace fstab, or the list of the boot job; macOS comes without one, so none is left where nothing is
    in it.
    """
    if not text.strip():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    safe.replace(path, text.encode("utf-8"), 0o644, 0, 0)
