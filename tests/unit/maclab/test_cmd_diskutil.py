"""diskutil prints what was recorded, for Macs in the recorded state."""

from __future__ import annotations

import plistlib
import re

import pytest

from maclab.commands._disks import parse_size
from maclab.machine.model import Mac
from maclab.machine.volumes import Container, CryptoUser, Disk, Snapshot, Volume
from tests.unit.maclab.fake import RECORDINGS, bare, recording, run


def stock_m1() -> Mac:
    """The M1 of the recordings asahi_stock__*: a 256 GB SSD, read from recoveryOS."""
    mac = bare()

    def volume(
        number: int, name: str, uuid: str, used: int, role: str, point: str = "", **more: object
    ) -> Volume:
        return Volume(uuid, name, number, roles=[role], in_use_bytes=used, mount_point=point, **more)  # type: ignore[arg-type]

    isc = Container(
        "E0718E49-1903-4793-B427-FCFEC4A3E72C",
        1,
        0,
        1,
        "",
        524288000,
        "Apple_APFS_ISC",
        reported_free_bytes=506347520,
    )
    isc.volumes = [
        volume(
            1,
            "iSCPreboot",
            "19D7B85B-D5EC-41E9-8441-EEAE52D964F1",
            6213632,
            "Preboot",
            "/System/Volumes/iSCPreboot",
        ),
        volume(2, "xART", "E9FD7E0B-391D-42DD-997A-15B5FE0CE73C", 6311936, "xART", "/System/Volumes/xarts"),
        volume(
            3,
            "Hardware",
            "6ED3C985-5971-4874-ABCA-841BB76CC6E5",
            507904,
            "Hardware",
            "/System/Volumes/Hardware",
        ),
        volume(4, "Recovery", "6A900409-C5A5-47CC-84AA-F0FE24E0D629", 20480, "Recovery"),
    ]
    for item in isc.volumes:
        item.os_internal = True
    recovery = Container(
        "160EFEBB-B539-42EE-800D-2FE4723FB25F",
        2,
        0,
        4,
        "",
        5368664064,
        "Apple_APFS_Recovery",
        reported_free_bytes=2500202496,
    )
    recovery.volumes = [
        volume(
            1,
            "Recovery",
            "67B148BE-39ED-493A-99AE-1C1D28247C54",
            1899917312,
            "Recovery",
            "/System/Volumes/Data/private/tmp/SystemRecovery",
            os_internal=True,
            mount_options=["rdonly"],
        ),
    ]
    group = "DCBCA6BD-BFF1-4F8F-AE1A-6E937D2D4BDC"
    macos = Container(
        "CEF76C65-8EAE-4346-A09E-AB98301B36AA",
        3,
        0,
        2,
        "BDB006E1-54AA-43CD-B7FE-FF021547D51E",
        245107195904,
        reported_free_bytes=183397150720,
    )
    macos.volumes = [
        volume(
            1,
            "Macintosh HD",
            "424FEA98-2296-48FD-8DFF-0866835572E9",
            15053312000,
            "System",
            "/Volumes/Macintosh HD",
            group_uuid=group,
            sealed="Broken",
            mount_options=["rdonly"],
        ),
        volume(
            2, "Preboot", "B065CC7B-CC03-44F1-8A58-CD9AB099D57C", 361050112, "Preboot", "/Volumes/Preboot"
        ),
        volume(3, "Recovery", "FDC764F5-0EF0-44F4-AA34-D011195207CA", 939421696, "Recovery"),
        volume(5, "Data", group, 15799300096, "Data", "/Volumes/Data", group_uuid=group),
        volume(6, "VM", "D2247B63-54E9-411F-94C0-FF3FAB2A17A0", 20480, "VM"),
    ]
    mac.containers = [isc, recovery, macos]
    return mac


@pytest.mark.parametrize(
    "device",
    [
        "disk1s1",
        "disk1s2",
        "disk1s3",
        "disk1s4",
        "disk2s1",
        "disk3s1",
        "disk3s2",
        "disk3s3",
        "disk3s5",
        "disk3s6",
    ],
)
def test_info_prints_the_recorded_text(device: str) -> None:
    result = run(stock_m1(), "diskutil", "info", f"/dev/{device}")
    assert (result.status, result.err) == (0, "")
    assert result.out.rstrip() == recording(f"diskutil/asahi_stock__diskutil_info_dev_{device}.txt").rstrip()


def test_info_of_a_volume_that_only_the_update_mounts_prints_the_recorded_text() -> None:
    mac = stock_m1()
    point = "/System/Volumes/Data/private/tmp/tmp-mount-spRxyx"
    mac.containers[2].volumes.append(
        Volume(
            "C983230F-1974-4283-A0A8-E1F892C7C835",
            "Update",
            4,
            roles=["Update"],
            mount_point=point,
            os_internal=True,
        )
    )
    result = run(mac, "diskutil", "info", "disk3s4")
    assert result.out.rstrip() == recording("diskutil/asahi_stock__diskutil_info_dev_disk3s4.txt").rstrip()


def test_apfs_list_of_a_stock_container_prints_the_recorded_tree() -> None:
    result = run(stock_m1(), "diskutil", "apfs", "list", "/dev/disk3")
    assert result.out == recording("diskutil/asahi_stock__diskutil_apfs_list_dev_disk3.txt")


def macbook_air() -> Mac:
    """The MacBook Air of recording apfs_list__MacBookAir_494GB_with_external__macOS13."""
    mac = bare()
    mac.disks.append(Disk(4, 2000398934016, "External", "USB", internal=False))
    inner = Container(
        "BB9FA2B0-01A2-48A3-AC3D-86911A9D82A1",
        3,
        0,
        2,
        "1C8AE143-6FA9-4FE3-90A9-5224CF737B2A",
        494384795648,
        reported_free_bytes=130901352448,
    )
    inner.volumes = [
        Volume(
            "4B72EF1D-334A-4874-936F-E1118C406D6F",
            "Macintosh HD - Data",
            1,
            roles=["Data"],
            in_use_bytes=348700340224,
            mount_point="/System/Volumes/Data",
            filevault=True,
        ),
        Volume(
            "227F0CDD-64C3-4A09-85EB-5C32A2120F77",
            "Macintosh HD",
            3,
            roles=["System"],
            in_use_bytes=9061601280,
            sealed="Broken",
            filevault=True,
            snapshot=Snapshot("7F4E9223-2A2D-42C9-A6FD-03C1875826EF", "com.apple.os.update-1"),
        ),
        Volume(
            "A201C401-B3A6-4F53-8485-B43239001F4B",
            "Preboot",
            4,
            roles=["Preboot"],
            in_use_bytes=4698144768,
            mount_point="/System/Volumes/Preboot",
        ),
        Volume(
            "62EF1E30-795B-4A63-B0FB-7C4B23A68E2F", "Recovery", 5, roles=["Recovery"], in_use_bytes=797224960
        ),
        Volume(
            "B58FFE7A-A1D6-409D-AB86-0DF06B3B0E38",
            "VM",
            6,
            roles=["VM"],
            in_use_bytes=20480,
            mount_point="/System/Volumes/VM",
        ),
    ]
    outer = Container(
        "173DEC75-C6B4-4FD8-88D4-78AF1EAA9286",
        5,
        4,
        2,
        "0A148F6F-AF8D-4CA4-B4A5-AB91F5155B76",
        1791962529792,
        reported_free_bytes=1414917365760,
    )
    outer.volumes = [
        Volume(
            "BA3A5BB1-4F1F-42DA-840E-E5B5B67872F9",
            "2T SSD",
            1,
            in_use_bytes=3035889664,
            mount_point="/Volumes/2T SSD",
        ),
        Volume(
            "BCD1F4E4-35D7-4A46-9832-6E561E4FCACE",
            "Time Machine",
            3,
            roles=["Backup"],
            in_use_bytes=297486266368,
            mount_point="/Volumes/Time Machine",
            case_sensitive=True,
            filevault=True,
        ),
        Volume(
            "B10F37D0-89BE-4954-8BD0-952516144060",
            "Cherry",
            2,
            in_use_bytes=76242427904,
            mount_point="/Volumes/Cherry",
            encryption_progress="10.0%",
        ),
    ]
    mac.containers = [inner, outer]
    return mac


def test_apfs_list_with_filevault_snapshot_and_external_disk_prints_the_recorded_tree() -> None:
    result = run(macbook_air(), "diskutil", "apfs", "list")
    # The publisher cut two of the four containers.
    assert result.out.replace("(2 found)", "(4 found)") == recording(
        "diskutil/apfs_list__MacBookAir_494GB_with_external__macOS13.txt"
    )


def keys(data: object) -> object:
    """The shape of a property list: keys and value types."""
    if isinstance(data, dict):
        return {key: keys(value) for key, value in data.items()}
    if isinstance(data, list):
        return [keys(item) for item in data[:1]]
    return type(data).__name__


def plist_of(name: str) -> object:
    return plistlib.loads((RECORDINGS / "diskutil" / name).read_bytes())


def test_info_plist_of_an_added_volume_has_the_keys_and_values_of_the_template() -> None:
    mac = bare(storage_gb=1000)
    container = mac.boot_container
    container.reported_free_bytes = 583730196480
    container.volumes.append(
        Volume("6CD8025B-76B4-4336-918B-04FEE498F9BD", "ds4", 7, mount_point="/Volumes/ds4")
    )
    result = run(mac, "diskutil", "info", "-plist", "disk3s7")
    assert plistlib.loads(result.out.encode()) == plist_of(
        "RECONSTRUCTED_info_plist__disk3s7_AppleSilicon.plist"
    )
    assert (
        result.out
        == (RECORDINGS / "diskutil/RECONSTRUCTED_info_plist__disk3s7_AppleSilicon.plist").read_text()
    )


def test_info_plist_of_the_root_is_the_snapshot_with_another_uuid() -> None:
    mac = bare()
    data = plistlib.loads(run(mac, "diskutil", "info", "-plist", "/").out.encode())
    wanted = keys(plist_of("info_plist__root_snapshot__Intel_BigSur.plist"))
    assert isinstance(wanted, dict)
    wanted.pop("MacOSSystemAPFSEFIDriverVersion")  # Intel only
    assert keys(data) == wanted
    assert data["DeviceIdentifier"] == "disk3s1s1"
    assert data["VolumeUUID"] != mac.boot_container.volumes[0].uuid


def test_info_plist_of_an_unknown_disk_is_an_error_plist_and_the_status_can_be_chosen() -> None:
    mac = bare()
    result = run(mac, "diskutil", "info", "-plist", "/Volumes/SMB")
    assert result.out == (RECORDINGS / "diskutil/info_plist__not_found.plist").read_text()
    assert result.status == 1
    mac.faults.append("unknown-disk-rc0")
    assert run(mac, "diskutil", "info", "-plist", "/Volumes/SMB").status == 0


def test_apfs_list_plist_has_the_recorded_structure_and_values() -> None:
    mac = stock_m1()
    isc = mac.containers[0]
    isc.uuid, isc.partition_uuid, isc.reported_free_bytes = (
        "57770A0F-0637-44E3-94BE-52D37EAFB88E",
        "01A35F52-1070-47F4-9F11-ACA37BA87A61",
        505962496,
    )
    isc.volumes = [
        Volume(
            "10DC02F1-71D9-4D8C-A666-899BFDFE2058",
            "iSCPreboot",
            1,
            roles=["Preboot"],
            in_use_bytes=6475776,
            encrypted=False,
        ),
        Volume(
            "AD45A111-EF76-4A09-9D8D-CFB0162952F8",
            "xART",
            2,
            roles=["xART"],
            in_use_bytes=6311936,
            filevault=True,
        ),
    ]
    result = run(mac, "diskutil", "apfs", "list", "-plist", "disk1")
    assert (
        result.out == (RECORDINGS / "diskutil/apfs_list_plist__iSC_container__AppleSilicon.plist").read_text()
    )


def test_list_crypto_users_prints_the_recorded_plist() -> None:
    mac = bare()
    data = next(v for v in mac.boot_container.volumes if "Data" in v.roles)
    data.crypto_users = [
        CryptoUser("3C7DB8EE-5EA4-4C18-A7E4-25C6C0F94667"),
        CryptoUser("EBC6C064-0000-11AA-AA11-00306543ECAC", "PersonalRecovery"),
        CryptoUser("2457711A-523C-4604-B75A-F48A571D5036", "MDMRecovery", owner=False),
    ]
    result = run(mac, "diskutil", "apfs", "listCryptoUsers", "-plist", "disk3s5")
    assert result.out == (RECORDINGS / "diskutil/apfs_listCryptoUsers_plist.plist").read_text()


def test_unknown_disks_and_containers_are_refused_with_the_recorded_words() -> None:
    mac = bare()
    assert "Could not find disk: nosuch" in run(mac, "diskutil", "info", "nosuch").err
    assert "Unable to find disk for /Volumes/euclid" in run(mac, "diskutil", "unmount", "/Volumes/euclid").err
    missing = run(mac, "diskutil", "apfs", "addVolume", "disk9", "APFS", "x")
    assert (missing.status, missing.err) == (1, "Could not find APFS Container Reference disk9\n")
    wrong = run(mac, "diskutil", "apfs", "addVolume", "disk0s2", "APFS", "x")
    line = "Error starting APFS Volume creation: The given disk is not an APFS Container Reference (-69630)"
    assert (wrong.status, wrong.err.strip()) == (1, line)
    assert line in (RECORDINGS / "diskutil/COMPOSED_error_codes.txt").read_text()


def test_an_option_outside_the_simulated_set_names_itself() -> None:
    result = run(bare(), "diskutil", "apfs", "addVolume", "disk3", "APFS", "x", "-passprompt")
    assert result.status != 0
    assert "apfs addVolume -passprompt" in result.err
    assert "eraseDisk" in run(bare(), "diskutil", "eraseDisk", "x").err


def test_an_ordinary_user_may_not_add_volumes() -> None:
    assert run(bare(), "diskutil", "apfs", "addVolume", "disk3", "APFS", "x", uid=610).status == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64m", 64_000_000),
        ("64MB", 64_000_000),
        ("1.5g", 1_500_000_000),
        ("1Gi", 1 << 30),
        ("2tib", 1 << 41),
        ("100S", 51200),
        ("4096", 4096),
        ("4096b", 4096),
        ("x", None),
        ("1.5", None),
        ("12q", None),
    ],
)
def test_sizes_are_base_ten_unless_they_say_otherwise(text: str, size: int | None) -> None:
    assert parse_size(text) == size


def test_device_numbers_change_at_reboot_and_uuids_stay() -> None:
    mac = bare()
    container = mac.boot_container
    container.volumes += [Volume("AA", "one", 7, backing="a"), Volume("BB", "two", 9, backing="b")]
    before = {v.uuid: container.device(v) for v in container.volumes}
    mac.renumber()
    after = {v.uuid: container.device(v) for v in container.volumes}
    assert set(before) == set(after)
    assert all(before[uuid] != after[uuid] for uuid in before)
    assert {c.number for c in mac.containers} == {1, 2, 3}
    out = run(mac, "diskutil", "info", "AA").out
    assert re.search(rf"Device Identifier: +{after['AA']}", out)


def external() -> Mac:
    """The Mac of info_plist__facts__AppleSilicon_macOS27.0: an internal SSD and a USB disk."""
    mac = bare(storage_gb=256)
    system = mac.boot_container.volumes[0]
    system.uuid = "9E97EE00-B7B4-4C33-9220-09F0CAFC59DE"
    assert system.snapshot
    system.snapshot.uuid = "DE969922-CD33-4FA5-8020-DD5AE91CAF5C"
    mac.disks.append(Disk(4, 500107837440, "External", "USB", internal=False))
    usb = Container("U", 5, 4, 2, "P", 499898081280)
    usb.volumes = [
        Volume(
            "9662C8FB-5D1F-4744-81E0-618FBC801198",
            "Untitled",
            1,
            mount_point="/Volumes/Untitled 1",
            encrypted=False,
        )
    ]
    mac.containers.append(usb)
    return mac


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        (
            "/",
            {
                "DeviceIdentifier": "disk3s1s1",
                "VolumeName": "Macintosh HD",
                "VolumeUUID": "DE969922-CD33-4FA5-8020-DD5AE91CAF5C",
                "MountPoint": "/",
                "Internal": True,
                "Ejectable": False,
                "BusProtocol": "Apple Fabric",
                "APFSContainerReference": "disk3",
                "ParentWholeDisk": "disk3",
                "WholeDisk": False,
                "Size": 245107195904,
            },
        ),
        ("/dev/disk3s1", {"VolumeUUID": "9E97EE00-B7B4-4C33-9220-09F0CAFC59DE", "MountPoint": ""}),
        (
            "disk5s1",
            {
                "VolumeName": "Untitled",
                "VolumeUUID": "9662C8FB-5D1F-4744-81E0-618FBC801198",
                "MountPoint": "/Volumes/Untitled 1",
                "Internal": False,
                "Ejectable": True,
                "BusProtocol": "USB",
                "APFSContainerReference": "disk5",
                "Size": 499898081280,
            },
        ),
        (
            "disk4",
            {"VolumeName": "", "VolumeUUID": None, "MountPoint": "", "WholeDisk": True, "Size": 500107837440},
        ),
    ],
)
def test_info_plist_has_the_values_recorded_on_apple_silicon(word: str, wanted: dict[str, object]) -> None:
    text = recording("diskutil/info_plist__facts__AppleSilicon_macOS27.0.txt")
    for value in wanted.values():
        assert value in (None, "", True, False) or str(value) in text
    data = plistlib.loads(run(external(), "diskutil", "info", "-plist", word).out.encode())
    assert {key: data.get(key) for key in wanted} == wanted
    assert data["FreeSpace"] == 0


def test_list_plist_has_the_recorded_top_level_keys() -> None:
    data = plistlib.loads(run(external(), "diskutil", "list", "-plist").out.encode())
    assert ", ".join(data) in recording("diskutil/info_plist__facts__AppleSilicon_macOS27.0.txt")
    assert {"disk1", "disk2", "disk3s1s1", "disk5s1"} <= set(data["AllDisks"])
    assert data["WholeDisks"] == ["disk0", "disk4", "disk1", "disk2", "disk3", "disk5"]


@pytest.mark.parametrize("disk", ["disk1", "disk2"])
def test_apfs_list_of_the_hidden_containers_has_the_recorded_lines(disk: str) -> None:
    # In these two recordings the recovery system shows another number (disk5) and other UUIDs in the
    # headings.
    mac = stock_m1()
    mac.containers[0].reported_free_bytes, mac.containers[1].reported_free_bytes = 506277888, 3448971264
    mac.containers[1].partition = 3
    mac.containers[1].volumes[0].mount_point = ""
    for volume in mac.containers[0].volumes:
        volume.mount_point = ""

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if ":" in line]

    out = run(mac, "diskutil", "apfs", "list", f"/dev/{disk}").out
    wanted = lines(recording(f"diskutil/asahi_stock__diskutil_apfs_list_dev_{disk}.txt"))
    if disk == "disk2":
        wanted[0] = wanted[0].replace("disk5", "disk2")
    assert lines(out) == wanted


def test_filevault_shows_on_the_system_and_data_volumes() -> None:
    mac = bare()
    mac.filevault = "on"
    assert (
        run(mac, "diskutil", "apfs", "list", "disk3").out.count("FileVault:                 Yes (Unlocked)")
        == 2
    )


@pytest.mark.parametrize(("size", "blocks"), [("container", 243155748), ("quota", 48828125)])
def test_df_of_a_quota_volume_follows_the_answer_of_a_real_mac(size: str, blocks: int) -> None:
    mac = bare(storage_gb=250)
    mac.boot_container.volumes.append(Volume("Q", "q", 7, quota_bytes=50 * 10**9, mount_point="/q"))
    mac.quirks.df_quota_size = size
    line = next(row for row in run(mac, "df", "-k").out.splitlines() if row.endswith("/q"))
    assert abs(int(line.split()[1]) - blocks) < blocks // 50
