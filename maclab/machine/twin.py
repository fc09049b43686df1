"""A simulated Mac that stands where an observed one stood.

Facts are one observation of a Mac as JSON (ds4-fleet's `fab observe --save` writes them): hardware, names,
accounts, volumes and settings. A Mac is given them before its first boot, as everything that macOS itself
keeps; what tools have put on the original is theirs to put on the twin.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maclab.machine import model
from maclab.machine.records import group_record, user_record
from maclab.machine.volumes import Volume

Facts = Mapping[str, Any]


def hardware(declared: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The declared hardware (`ds4_hardware`), corrected by what the Mac said."""
    live = facts["hardware"]
    return {
        **declared,
        **{key: live[key] for key in ("model", "chip") if live.get(key)},
        **({"memory_gb": live["memsize_bytes"] >> 30} if live.get("memsize_bytes") else {}),
    }


def shape(mac: model.Mac, facts: Facts) -> None:
    """Make a bare Mac, before its first boot, what the facts say of everything that macOS itself keeps."""
    macos, memory = facts.get("macos") or {}, facts.get("memory") or {}
    mac.os.version = macos.get("version") or mac.os.version
    mac.os.build = macos.get("build") or mac.os.build
    mac.os.kernel = macos.get("kernel") or mac.os.kernel
    mac.timezone = facts.get("timezone") or mac.timezone
    if facts.get("filevault") in ("on", "off"):
        mac.filevault = str(facts["filevault"])
    mac.memory.wired_limit_mib = memory.get("wired_limit_mib") or 0
    mac.memory.stock_limit_mib = memory.get("stock_limit_mib") or 0
    # What a probe of the real Mac found out about the questions that the references leave open.
    mac.assume(facts.get("answers") or {})
    power_settings(mac, facts)
    if (facts.get("toolchain") or {}).get("ok"):
        mac.toolchain.installed = True
        mac.toolchain.developer_dir = facts["toolchain"]["developer_dir"]
    _accounts(mac, facts)
    _volumes(mac, facts)


def _accounts(mac: model.Mac, facts: Facts) -> None:
    for name, gid in (facts.get("groups") or {}).items():
        if gid is not None:
            mac.groups[name] = group_record(name, gid, name, seed=mac.name)
    for name, user in (facts.get("users") or {}).items():
        if user is not None:
            record = user_record(
                name, user["uid"], user["gid"], user["home"], user["shell"], name, seed=mac.name
            )
            if user.get("hidden"):
                record.attributes["IsHidden"] = ["1"]
            mac.users[name] = record


def _volumes(mac: model.Mac, facts: Facts) -> None:
    storage = facts.get("storage") or {}
    observed = next(
        (
            entry
            for entry in storage.get("containers") or ()
            if entry["reference"] == storage.get("boot_container")
        ),
        None,
    )
    if observed is None:
        return
    container = mac.boot_container
    container.uuid, container.size_bytes = observed["uuid"], observed["size_bytes"]
    stock = {(volume.name, *volume.roles): volume for volume in container.volumes}
    for entry in observed["volumes"]:
        known = stock.get((entry["name"], *entry["roles"]))
        if known:
            known.uuid = entry["uuid"]
            continue
        container.volumes.append(
            Volume(
                uuid=entry["uuid"],
                name=entry["name"],
                slice=container.next_slice(),
                roles=list(entry["roles"]),
                quota_bytes=entry["quota_bytes"],
                reserve_bytes=entry["reserve_bytes"],
                case_sensitive=bool(entry.get("case_sensitive")),
                owners_enabled=entry.get("owners_enabled") is not False,
                indexed=entry.get("indexed") is not False,
                backing=f"v-{entry['uuid']}",
            )
        )


def disk(root: Path, facts: Facts) -> None:
    """What lies on the original's system volume and not in its model: fstab and the mount points in it."""
    fstab = (facts.get("storage") or {}).get("fstab") or ""
    if not fstab:
        return
    (root / "private/etc/fstab").write_text(fstab)
    for line in fstab.splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[1].startswith("/") and not fields[1].startswith("/Volumes"):
            (root / fields[1].lstrip("/")).mkdir(parents=True, exist_ok=True)


def power_settings(mac: model.Mac, facts: Facts) -> None:
    """pmset's settings as they were on the original."""
    mac.power.settings.update({k: v for k, v in (facts.get("power") or {}).items() if isinstance(v, int)})
