"""The backing store, as far as it can be judged without rights: fstab, image sizes, names of mount points."""

from __future__ import annotations

from pathlib import Path

from maclab.machine import storage
from maclab.machine.units import SCALE
from maclab.machine.volumes import Volume
from tests.unit.maclab.fake import bare


def test_fstab_lines_by_uuid_and_label_are_read_and_others_ignored() -> None:
    text = """\
# a comment
UUID=aaaa-1 /opt/ds4/models apfs rw,noatime,noauto,nobrowse,nosuid,owners
LABEL=Nix\\040Store /nix apfs rw   # the store
/dev/disk3s7 /old apfs rw
UUID=short
"""
    entries = storage.parse_fstab(text)
    assert [(e.uuid, e.label, e.mount_point) for e in entries] == [
        ("AAAA-1", "", "/opt/ds4/models"),
        ("", "Nix Store", "/nix"),
    ]
    assert "noauto" in entries[0].options


def test_a_uuid_wins_over_a_label() -> None:
    text = "LABEL=kv /wrong apfs rw\nUUID=B-2 /right apfs rw\n"
    entry = storage.fstab_entry(Volume("B-2", "kv", 7), text)
    assert entry is not None
    assert entry.mount_point == "/right"
    other = storage.fstab_entry(Volume("C-3", "kv", 8), text)
    assert other is not None
    assert other.mount_point == "/wrong"
    assert storage.fstab_entry(Volume("D-4", "models", 9), text) is None


def test_an_image_holds_what_the_container_has_left_scaled_down() -> None:
    for gb in (256, 512, 1000, 4000):
        container = bare(storage_gb=gb).boot_container
        wanted = (container.size_bytes - container.base_load_bytes()) // SCALE
        assert wanted < storage.image_bytes(container) < wanted * 1.2 + (8 << 20)
        assert storage.image_bytes(container) % 4096 == 0


def test_a_volume_is_mounted_under_its_name_with_slashes_as_colons() -> None:
    assert storage.default_mount_point("surely not there") == Path("/Volumes/surely not there")
    assert storage.default_mount_point("a/b") == Path("/Volumes/a:b")
