# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What to do about an APFS volume: pure decisions over what diskutil and mount report.

An APFS volume has its UUID for life; its device number changes at every boot and its name may be taken twice.
Its quota and reserve can never be changed after it was made (diskutil has no verb for it), so a difference
is reported and never mended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..shapes import Container, FoundVolume, Root, VolumeFacts, WantedVolume

#: owners: the server's account must be kept to its own files. nobrowse keeps Finder away, noatime saves a
#: write per read, nosuid as nothing on it is ours to run. Without noauto diskarbitrationd mounts it here at
#: boot by itself (one source only), and the job com.ds4fleet.mounts does where that is not so.
FSTAB_OPTIONS = "rw,noatime,nobrowse,nosuid,owners"
FSTAB = "/etc/fstab"


#: The names of every release; under another one a volume is ours by where it is mounted or noted.
OUR_NAMES = ("ds4-models", "ds4-kv", "ds4-prove-models", "ds4-prove-kv")
#: A volume that we made a moment ago, before it was mounted: APFS itself takes less than a MB.
NEW_BYTES = 32 << 20


class Refusal(Exception):
    """A sentence for the operator: why nothing was done about a volume."""


def flat(containers: Iterable[Container]) -> list[tuple[Container, FoundVolume]]:
    """[(container, volume)] of the containers of mac.parse.apfs_containers."""
    return [(container, volume) for container in containers for volume in container["volumes"]]


def find(
    wanted: WantedVolume, containers: Sequence[Container]
) -> tuple[Container, FoundVolume] | tuple[None, None]:
    """(container, volume) of the wanted volume, by UUID or else by name; (None, None) when there is none.

    wanted: {name, uuid or None, ...}. Raises Refusal when the name alone does not tell which one is meant.
    """
    uuid = wanted.get("uuid")
    for container, volume in flat(containers):
        if uuid and volume["uuid"].upper() == uuid.upper():
            return container, volume
    named = [pair for pair in flat(containers) if pair[1]["name"] == wanted["name"] and not pair[1]["roles"]]
    if len(named) > 1:
        raise Refusal(
            "there are %d volumes named %s (%s): delete or rename all but one"
            % (len(named), wanted["name"], ", ".join(volume["device"] for _container, volume in named))
        )
    return named[0] if named else (None, None)


def whose(
    wanted: Mapping[str, Any],
    volume: Mapping[str, Any],
    at: str,
    texts: Iterable[str],
    deleting: bool = False,
) -> str:
    """Why a volume that bears the wanted name is not ours; "" for one of ours.

    at: where it is mounted, "" for nowhere. texts: of /etc/fstab and of the boot job's list. deleting: a
    volume is not ours only because nothing is on it.
    """
    if not volume["roles"]:
        noted = any(_notes(text, volume["uuid"], wanted["mount_point"]) for text in texts)
        new = not deleting and (volume.get("in_use_bytes") or 0) < NEW_BYTES
        if volume["name"] in OUR_NAMES or at == wanted["mount_point"] or noted or new:
            return ""
    return "volume %s (%s) is there and is not ours: give ours another name, or mount it at %s yourself" % (
        volume["name"],
        "mounted at %s" % at if at else "not mounted",
        wanted["mount_point"],
    )


def in_the_way(
    wanted: Mapping[str, Any],
    volume: Mapping[str, Any] | None,
    others: Iterable[tuple[Mapping[str, Any], str]],
    texts: Collection[str],
) -> str:
    """Why the place of the wanted volume is another one's; "" when it is free or has the volume itself.

    volume: as found, or None. others: [(volume, where it is mounted)] of this Mac, without those that go to
    places of their own in the same run.
    """
    for other, at in others:
        if volume is not None and other["uuid"] == volume["uuid"]:
            continue
        place = wanted["mount_point"]
        here = "is" if at == place else "belongs"
        if at == place or any(_notes(text, other["uuid"], place) for text in texts):
            return (
                "volume %s %s at %s, where %s is wanted: put its name back into the inventory, or unmount it"
                " and delete its line in %s and in volumes.conf below boot"
                % (other["name"], here, place, wanted["name"], FSTAB)
            )
    return ""


def container_for(
    wanted: WantedVolume, containers: Iterable[Container], boot_container: str | None
) -> Container:
    """The container to create the volume in: the one asked for by UUID or reference, else that of `/`."""
    asked = wanted.get("container") or "auto"
    target = boot_container if asked == "auto" else asked
    for container in containers:
        if target in (container["reference"], container["uuid"]):
            return container
    raise Refusal("there is no APFS container %s for volume %s" % (target, wanted["name"]))


def check_room(wanted: WantedVolume, container: Container) -> None:
    """Raises Refusal when the container cannot hold what is reserved, or reserve and quota disagree."""
    reserve, quota = wanted.get("reserve_bytes") or 0, wanted.get("quota_bytes") or 0
    if quota and reserve > quota:
        raise Refusal("volume %s: the reserve is larger than the quota" % wanted["name"])
    if reserve > container["free_bytes"]:
        raise Refusal(
            "container %s has %.1f GB free, but volume %s reserves %.1f GB: free some space"
            % (container["reference"], container["free_bytes"] / 1e9, wanted["name"], reserve / 1e9)
        )


def differences(wanted: WantedVolume, container: Container, volume: FoundVolume) -> list[str]:
    """Sentences on what an existing volume has otherwise than wanted and what can't be mended in place."""
    said = []
    for has_bytes, wanted_bytes, word in (
        (volume["quota_bytes"], wanted.get("quota_bytes") or 0, "quota"),
        (volume["reserve_bytes"], wanted.get("reserve_bytes") or 0, "reserve"),
    ):
        if wanted_bytes != has_bytes:
            said.append(
                "volume %s (%s) has a %s of %.1f GB, wanted are %.1f GB; it cannot be changed, only deleted"
                " and made anew" % (volume["name"], volume["uuid"], word, has_bytes / 1e9, wanted_bytes / 1e9)
            )
    asked = wanted.get("container") or "auto"
    if asked not in ("auto", container["reference"], container["uuid"]):
        said.append(
            "volume %s is in container %s, not in %s; it stays there"
            % (volume["name"], container["reference"], asked)
        )
    return said


def create_arguments(wanted: WantedVolume, container: Container) -> list[str]:
    """Arguments of `diskutil` that create the volume and mount it where it belongs."""
    arguments = ["apfs", "addVolume", container["reference"], "APFS", wanted["name"]]
    if wanted.get("reserve_bytes"):
        arguments += ["-reserve", "%dB" % wanted["reserve_bytes"]]
    if wanted.get("quota_bytes"):
        arguments += ["-quota", "%dB" % wanted["quota_bytes"]]
    return arguments + ["-mountpoint", wanted["mount_point"]]


def decide(wanted: WantedVolume, volume: FoundVolume | None, facts: VolumeFacts) -> list[str]:
    """Names of the steps that are missing, in order, for a volume that should be there.

    volume: as found, or None. facts of that volume: {mount_point, owners_enabled, never_index, fstab: text,
    listed: text of the boot job's list, root: {owner, group, mode} or None, beneath: what is in its place
    while it is not there, "" for nothing}.
    Steps: aside, create, unmount, mount, owners, never_index, root, fstab (and the list).
    """
    steps = ["aside"] if facts.get("beneath") else []
    if volume is None:
        return [*steps, "create", "owners", "never_index", "root", "fstab"]
    if volume["locked"]:
        raise Refusal("volume %s is locked: unlock it with diskutil apfs unlockVolume" % volume["name"])
    in_place = facts["mount_point"] == wanted["mount_point"]
    if not in_place:
        steps += (["unmount"] if facts["mount_point"] else []) + ["mount"]
    if not in_place or facts["owners_enabled"] is False:
        steps.append("owners")
    if not in_place or not facts["never_index"]:
        steps.append("never_index")
    if not in_place or facts["root"] != root_of(wanted):
        steps.append("root")
    texts = [facts[key] for key in ("fstab", "listed") if key in facts]
    if any(with_fstab_entry(text, volume["uuid"], wanted["mount_point"]) != text for text in texts):
        steps.append("fstab")
    return steps


def root_of(wanted: WantedVolume) -> Root:
    """Owner, group and mode that the root directory of the mounted volume is to have."""
    return {
        "owner": wanted.get("owner") or "root",
        "group": wanted.get("group") or "wheel",
        "mode": wanted.get("mode") or "0755",
    }


#: Before a line that somebody else wrote about a volume of ours, or about its place.
FSTAB_ASIDE = "# put aside by ds4-fleet: "


def fstab_line(uuid: str, mount_point: str) -> str:
    """The line of /etc/fstab for a volume. APFS must be named by UUID=; a blank is written as \\040."""
    return "UUID=%s %s apfs %s 0 0" % (uuid, mount_point.replace(" ", "\\040"), FSTAB_OPTIONS)


def with_fstab_entry(text: str, uuid: str, mount_point: str) -> str:
    """The text of fstab with our line for this volume and no other line for its UUID or its mount point.

    Such a line that was not written here stays as a comment.
    """
    line = fstab_line(uuid, mount_point)
    lines = text.splitlines()
    about = [index for index, old in enumerate(lines) if _speaks_of(old, uuid, mount_point)]
    if len(about) == 1 and lines[about[0]] == line:
        return text
    foreign = {index for index in about if not lines[index].rstrip().endswith(" apfs %s 0 0" % FSTAB_OPTIONS)}
    kept = [
        FSTAB_ASIDE + old if index in foreign else old
        for index, old in enumerate(lines)
        if index in foreign or index not in about
    ]
    return "\n".join(kept + [line]) + "\n"


def without_fstab_entry(text: str, uuid: str | None, mount_point: str) -> str:
    """The text of fstab without lines for this UUID or this mount point."""
    lines = text.splitlines()
    kept = [old for old in lines if not _speaks_of(old, uuid, mount_point)]
    return text if kept == lines else "".join(line + "\n" for line in kept)


def _notes(text: str, uuid: str, mount_point: str) -> bool:
    """Whether a text of fstab's form has this volume at this place."""
    return any(
        fields[0].upper() == "UUID=" + uuid.upper() and fields[1].replace("\\040", " ") == mount_point
        for fields in (line.split() for line in text.splitlines())
        if len(fields) > 1
    )


def _speaks_of(line: str, uuid: str | None, mount_point: str) -> bool:
    fields = line.split()
    if len(fields) < 2 or fields[0].startswith("#"):
        return False
    same_uuid = bool(uuid) and fields[0].upper() == "UUID=%s" % (uuid or "").upper()
    return same_uuid or fields[1].replace("\\040", " ") == mount_point
