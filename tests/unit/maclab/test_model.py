"""The Mac as data: stock contents, what a save keeps, what a reboot forgets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maclab.machine.model import Mac, stock_wired_limit_mib
from maclab.machine.stock import hardware_of, ssd_bytes
from maclab.machine.units import GIB, human, stable_uuid
from maclab.machine.volumes import Volume
from tests.unit.maclab.fake import bare


def test_a_bare_mac_has_stock_containers_an_administrator_and_nothing_of_ours() -> None:
    mac = bare()
    assert [(c.reference, c.physical_store) for c in mac.containers] == [
        ("disk1", "disk0s1"),
        ("disk2", "disk0s3"),
        ("disk3", "disk0s2"),
    ]
    assert not mac.toolchain.installed
    assert mac.boot_container.reference == "disk3"
    assert mac.boot_container.next_slice() == 7
    assert "admin" in mac.groups["admin"].attributes["GroupMembership"]
    assert not [name for name in (*mac.users, *mac.groups) if "ds4" in name]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    mac = bare()
    mac.boot_container.volumes.append(
        Volume("U", "ds4-models", 7, quota_bytes=5, backing="v", backing_id=256)
    )
    mac.faults.append("busy-volume")
    mac.save(tmp_path / "mac.json")
    assert Mac.load(tmp_path / "mac.json") == mac
    assert [p.name for p in tmp_path.iterdir()] == ["mac.json"]


def test_a_mac_that_an_older_lab_saved_still_loads() -> None:
    data = json.loads(json.dumps(bare().to_dict()))
    del data["firewall"]
    data["no_longer_known"] = 1
    assert Mac.from_dict(data).firewall.state == 0


def test_the_same_host_has_the_same_identifiers_in_every_lab() -> None:
    assert bare().containers == bare().containers
    assert stable_uuid("a", "b") != stable_uuid("b", "a")
    assert hardware_of("x", {}).serial != hardware_of("y", {}).serial


def test_a_reboot_forgets_the_wired_limit_and_swap_and_counts_itself() -> None:
    mac = bare()
    mac.memory.wired_limit_mib, mac.memory.swap_used_bytes = 98304, GIB
    session = mac.boot.session_uuid
    mac.renumber()
    assert (mac.memory.wired_limit_mib, mac.memory.swap_used_bytes, mac.boot.count) == (0, 0, 1)
    assert mac.boot.session_uuid != session


def test_numbers_move_at_every_reboot_and_gaps_close() -> None:
    mac = bare()
    container = mac.boot_container
    container.volumes += [Volume(name, name, slice_, backing=name) for name, slice_ in (("a", 7), ("b", 12))]
    seen = []
    for _ in range(3):
        mac.renumber()
        seen.append(container.reference)
        assert sorted(v.slice for v in container.volumes if v.backing) == [7, 8]
        assert {c.number for c in mac.containers} == {1, 2, 3}
    assert len(set(seen)) == 3


def test_free_space_is_what_is_left_after_use_and_unused_reserves() -> None:
    mac = bare()
    container = mac.boot_container
    empty = container.free_bytes()
    container.volumes.append(Volume("K", "kv", 7, reserve_bytes=10**10, in_use_bytes=0, backing="k"))
    assert container.free_bytes() == empty - 10**10
    assert container.free_bytes({"K": 4 * 10**9}) == empty - 10**10
    assert container.free_bytes({"K": 3 * 10**10}) == empty - 3 * 10**10


@pytest.mark.parametrize(
    ("gb", "container"),
    [(256, 245107195904), (512, 494384795648), (1000, 994662584320), (2000, 1995165736960)],
)
def test_ssds_have_the_recorded_sizes(gb: int, container: int) -> None:
    assert ssd_bytes(gb)[1] == container
    assert ssd_bytes(gb)[0] > container


def test_an_ssd_of_an_unrecorded_size_is_a_little_larger_than_its_container() -> None:
    whole, container = ssd_bytes(3000)
    assert 5 * 10**9 < whole - container < 7 * 10**9


def test_stock_limits_grow_with_the_memory() -> None:
    for policy in ("newer", "older"):
        limits = [stock_wired_limit_mib(gb, policy) for gb in (16, 24, 32, 48, 64, 96, 128, 256, 512)]
        assert limits == sorted(limits)
        assert all(
            limit < gb * 1024
            for limit, gb in zip(limits, (16, 24, 32, 48, 64, 96, 128, 256, 512), strict=True)
        )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (20480, "20.5 KB"),
        (524288000, "524.3 MB"),
        (245107195904, "245.1 GB"),
        (1791962529792, "1.8 TB"),
    ],
)
def test_sizes_read_as_diskutil_writes_them(size: int, text: str) -> None:
    assert human(size) == text


def test_answers_of_a_real_mac_replace_what_was_assumed() -> None:
    mac = bare()
    differences = mac.assume({"info_unknown_rc": 0, "checkmember_no_rc": 67, "stock_limit_mib": 480000})
    assert differences == [
        "info_unknown_rc: assumed 1, found 0",
        "stock_limit_mib: assumed 475136, found 480000",
    ]
    assert (mac.quirks.info_unknown_rc, mac.stock_wired_limit_mib()) == (0, 480000)
    assert mac.assume({"info_unknown_rc": 0}) == []
    with pytest.raises(KeyError):
        mac.assume({"no_such_question": 1})
