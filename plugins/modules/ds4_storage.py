#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""APFS volumes: created once, found by UUID, mounted where the plan says, now and at every boot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_storage
short_description: Keep APFS volumes as the plan wants them
description:
  - Creates missing volumes in the container of V(/), with quota and reserve, and mounts them in place.
  - What is in the place of a volume before it is mounted there is renamed to C(<mount point>.before-volume),
    as it would be hidden; a place that is a link, or where another volume is mounted, is refused.
  - Writes them into V(/etc/fstab) by UUID, and into V(/opt/ds4/boot/volumes.conf) for the job that sees to
    them at boot; turns ownership on and indexing off, and sets owners of roots.
  - A volume that is there already must be ours; one that is not is neither mounted nor deleted, and nothing
    is mounted over another one.
  - An existing volume with another quota is reported in RV(differences) and never made anew.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
  - ds4.fleet.options.root
  - ds4.fleet.options.safe_mode
options:
  volumes:
    description: The volumes of the plan.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the volume.
        type: str
        required: true
      mount_point:
        description: Directory that it is mounted at; made when missing.
        type: path
        required: true
      purpose:
        description: What it is for, as the plan says; not used here.
        type: str
      uuid:
        description: UUID of a volume that was seen before; without one it is found by its name.
        type: str
      container:
        description: UUID or reference of the container to create it in; unset is that of V(/).
        type: str
      quota_bytes:
        description: Largest size in bytes, V(0) for none. Takes effect at creation only.
        type: int
        default: 0
      reserve_bytes:
        description: Bytes set aside for it, V(0) for none. Takes effect at creation only.
        type: int
        default: 0
      owner:
        description: Owner of the root directory.
        type: str
        default: root
      group:
        description: Group of the root directory.
        type: str
        default: wheel
      mode:
        description: Mode of the root directory.
        type: str
        default: "0755"
  state:
    description: V(absent) deletes the volumes and everything on them, and only with O(safe_mode=false).
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Keep the volumes of the plan
  ds4.fleet.ds4_storage:
    volumes:
      - name: ds4-models
        mount_point: /opt/ds4/models
        quota_bytes: 400000000000
      - name: ds4-kv
        mount_point: /opt/ds4/kv
        quota_bytes: 20000000000

- name: Delete the KV volume
  ds4.fleet.ds4_storage:
    volumes:
      - name: ds4-kv
        mount_point: /opt/ds4/kv
    state: absent
    safe_mode: false
"""

RETURN = r"""
volumes:
  description: By name, where each volume is now; with O(state=absent) empty.
  returned: success
  type: dict
  sample:
    ds4-kv: {uuid: 6CD8025B-76B4-4336-918B-04FEE498F9BD, device: disk3s7, mount_point: /opt/ds4/kv}
steps:
  description: What was done, or with check mode would be, one sentence each.
  returned: success
  type: list
  elements: str
differences:
  description: What existing volumes have otherwise than wanted and what can only be changed by hand, and
    what was put aside for them.
  returned: success
  type: list
  elements: str
"""

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.mac import aside, daemon_probe, parse, volumes
from ..module_utils.ds4agent.mac.disks import FSTAB, Storage, read_fstab, write_fstab
from ..module_utils.ds4agent.mac.run import locked

if TYPE_CHECKING:
    from ..module_utils.ds4agent.shapes import FoundVolume, WantedVolume

LOCK = "/var/run/ds4-storage.lock"
# Two `addVolume` at the same time spoil the owner of the new roots: one run at a time, others wait.
LOCK_TIMEOUT_S = 300
SENTENCES = {
    "aside": "put aside what is in the place of volume %s",
    "create": "create volume %s and mount it",
    "unmount": "unmount volume %s from where it is",
    "mount": "mount volume %s",
    "owners": "turn ownership on for volume %s",
    "never_index": "keep Spotlight off volume %s",
    "root": "set the owner of the root of volume %s",
    "fstab": "write volume %s into /etc/fstab and the list of the boot job",
    "delete": "delete volume %s and all that is on it",
}


def refuse_strangers(
    storage: Storage, wanted: WantedVolume, volume: FoundVolume | None, names: Collection[str]
) -> None:
    """Raises Refusal when the volume is not ours or its place is another one's. names: those of the run."""
    found = storage.facts(volume)
    texts = (found["fstab"], found["listed"])
    why = volumes.whose(wanted, volume, found["mount_point"], texts) if volume else ""
    why = why or volumes.in_the_way(wanted, volume, storage.others(names), texts)
    if why:
        raise volumes.Refusal(why)


def keep(
    storage: Storage, wanted: WantedVolume, names: Collection[str], check_mode: bool
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Bring one volume to what is wanted; (sentences, differences, where it is)."""
    container, volume = volumes.find(wanted, storage.containers)
    refuse_strangers(storage, wanted, volume, names)
    steps = volumes.decide(wanted, volume, storage.facts(volume, wanted["mount_point"]))
    said = volumes.differences(wanted, container, volume) if container and volume else []
    if volume is None:
        volumes.check_room(wanted, volumes.container_for(wanted, storage.containers, storage.boot_container))
    if not check_mode:
        for step in steps:
            getattr(storage, step)(wanted, volume)
            if step == "create":
                _container, volume = volumes.find(wanted, storage.containers)
        prove(storage, wanted)
    said += [
        "what was at %s before its volume is in %s (%s): weights of the plan are taken over from there once"
        " they are proven; move or delete the rest" % (wanted["mount_point"], folder, aside.contents(folder))
        for folder in aside.folders(wanted["mount_point"])
    ]
    place = {"uuid": volume and volume["uuid"], "device": volume and volume["device"],
             "mount_point": wanted["mount_point"], "created": "create" in steps}  # fmt: skip
    return [SENTENCES[step] % wanted["name"] for step in steps], said, place


def prove(storage: Storage, wanted: WantedVolume) -> None:
    """Raises Refusal when daemons may not use the volume: on an external disk macOS may forbid it."""
    container, volume = volumes.find(wanted, storage.containers)
    if container is None or volume is None or container["reference"] == storage.boot_container:
        return
    if parse.volume_info(storage.command("info", "-plist", volume["device"]).out)["internal"]:
        return
    why = daemon_probe.refused(wanted["mount_point"])
    if why:
        raise volumes.Refusal(
            "volume %s is on an external disk, and a daemon cannot read and write there: %s. Nothing was"
            " kept on it; name an internal container in ds4_storage_container" % (wanted["name"], why)
        )


def remove(
    storage: Storage, wanted: WantedVolume, safe_mode: bool, check_mode: bool
) -> tuple[list[str], list[str]]:
    """Delete one volume, its lines in fstab and in the boot job's list, and its directory; (sentences of what
    was done, why it was left alone).
    """
    _container, volume = volumes.find(wanted, storage.containers)
    texts = {path: read_fstab(path) for path in (FSTAB, storage.listed)}
    said = []
    if volume is not None:
        at = storage.facts(volume)["mount_point"]
        why = volumes.whose(wanted, volume, at, texts.values(), deleting=True)
        said = [why] if why else []
        volume = None if why else volume
    left = {
        path: volumes.without_fstab_entry(text, volume and volume["uuid"], wanted["mount_point"])
        for path, text in texts.items()
    }
    if volume is None and left == texts:
        return [], said
    if volume is not None and safe_mode:
        raise volumes.Refusal(
            "volume %s holds data and is not deleted while ds4_safe_mode is true" % wanted["name"]
        )
    if not check_mode:
        if volume is not None:
            storage.delete(wanted, volume)
        for path in texts:
            if left[path] != texts[path]:
                write_fstab(left[path], path)
        if os.path.isdir(wanted["mount_point"]) and not os.listdir(wanted["mount_point"]):
            os.rmdir(wanted["mount_point"])
    return [SENTENCES["delete"] % wanted["name"]], said


def work(module: AnsibleModule) -> dict[str, Any]:
    storage = Storage(module.params["root"])
    result: dict[str, Any] = {"steps": [], "differences": [], "volumes": {}}
    before = read_fstab()
    names = [wanted["name"] for wanted in module.params["volumes"]]
    for wanted in module.params["volumes"]:
        if module.params["state"] == "absent":
            steps, said = remove(storage, wanted, module.params["safe_mode"], module.check_mode)
            result["steps"] += steps
            result["differences"] += said
            continue
        steps, said, place = keep(storage, wanted, names, module.check_mode)
        result["steps"] += steps
        result["differences"] += said
        result["volumes"][wanted["name"]] = place
    result["changed"] = bool(result["steps"])
    result["diff"] = [{"prepared": "".join(step + "\n" for step in result["steps"])}]
    after = read_fstab()
    if after != before:
        result["diff"].append(
            {"before_header": FSTAB, "after_header": FSTAB, "before": before, "after": after}
        )
    return result


def main() -> None:
    text = {"type": "str"}
    volume = {
        "name": {"type": "str", "required": True},
        "mount_point": {"type": "path", "required": True},
        "purpose": text,
        "uuid": text,
        "container": text,
        "quota_bytes": {"type": "int", "default": 0},
        "reserve_bytes": {"type": "int", "default": 0},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "wheel"},
        "mode": {"type": "str", "default": "0755"},
    }
    module = AnsibleModule(
        argument_spec={
            "volumes": {"type": "list", "elements": "dict", "required": True, "options": volume},
            "root": {"type": "path", "default": "/opt/ds4"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "safe_mode": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        with locked(LOCK, LOCK_TIMEOUT_S):
            result = work(module)
    except (volumes.Refusal, parse.ParseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
