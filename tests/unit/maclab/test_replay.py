"""Every line of every recording is printed by a simulated command, or data/recordings.yml says why not.

Recordings that one test prints as a whole are named in WHOLE, with that test. The others are collections of
lines: REPLAYS puts Macs into each recorded state, and what no command then printed must be what
data/recordings.yml lists, no less and no more.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maclab.command_table import NOT_REPLAYED
from maclab.machine.volumes import Container, Disk, Snapshot, Volume
from tests.unit.maclab import test_cmd_system as system
from tests.unit.maclab.fake import RECORDINGS, Result, bare, run

ALL = sorted(
    str(path.relative_to(RECORDINGS)) for path in RECORDINGS.glob("*/*") if not path.name.startswith(".")
)
WHOLE = {
    r"diskutil/asahi_stock__diskutil_info_dev_(?!disk3s4)": (
        "test_cmd_diskutil::test_info_prints_the_recorded_text"
    ),
    r"diskutil/asahi_stock__diskutil_info_dev_disk3s4": (
        "test_cmd_diskutil::test_info_of_a_volume_that_only_the_update_mounts_prints_the_recorded_text"
    ),
    r"diskutil/asahi_stock__diskutil_apfs_list_dev_disk3": (
        "test_cmd_diskutil::test_apfs_list_of_a_stock_container_prints_the_recorded_tree"
    ),
    r"diskutil/asahi_stock__diskutil_apfs_list_dev_disk[12]": (
        "test_cmd_diskutil::test_apfs_list_of_the_hidden_containers_has_the_recorded_lines"
    ),
    r"diskutil/apfs_list__MacBookAir": (
        "test_cmd_diskutil::test_apfs_list_with_filevault_snapshot_and_external_disk_prints_the_recorded_tree"
    ),
    r"diskutil/apfs_list_plist": (
        "test_cmd_diskutil::test_apfs_list_plist_has_the_recorded_structure_and_values"
    ),
    r"diskutil/apfs_listCrypto": "test_cmd_diskutil::test_list_crypto_users_prints_the_recorded_plist",
    r"diskutil/RECONSTRUCTED_info": (
        "test_cmd_diskutil::test_info_plist_of_an_added_volume_has_the_keys_and_values_of_the_template"
    ),
    r"diskutil/info_plist__not_found": (
        "test_cmd_diskutil::test_info_plist_of_an_unknown_disk_is_an_error_plist_and_the_status_can_be_chosen"
    ),
    r"diskutil/info_plist__root": (
        "test_cmd_diskutil::test_info_plist_of_the_root_is_the_snapshot_with_another_uuid"
    ),
    r"diskutil/info_plist__facts": (
        "test_cmd_diskutil::test_info_plist_has_the_values_recorded_on_apple_silicon"
    ),
    r"diskutil/(apfs_addVolume|COMPOSED_apfs_)": (
        "test_lab_macos::test_adding_and_deleting_print_what_was_recorded"
    ),
    r"diskutil/COMPOSED_mount": "test_lab_macos::test_mounting_and_unmounting_print_what_was_recorded",
    r"launchctl/list__": "test_launchctl_replay::test_list_prints_the_recorded_table",
    r"launchctl/list_label": "test_launchctl_replay::test_list_of_a_label_prints_the_recorded_dictionary",
    r"launchctl/print_system_domain": (
        "test_launchctl_replay::test_print_of_the_domain_is_the_recording_as_far_as_it_is_simulated"
    ),
    r"launchctl/print_missing": "test_launchctl_replay::TestMissing",
    r"launchctl/COMPOSED_error": "test_launchctl_replay::TestErrors",
    r"launchctl/print_disabled": "test_launchctl_replay::test_print_disabled_is_the_recording",
    r"launchctl/print_fragments": "test_launchctl_replay::test_print_has_the_recorded_lines_of_each_end",
    r"launchctl/COMPOSED_print": "test_launchd_print::test_of_a_running_daemon_is_the_recording",
    r"launchctl/print_system_running": (
        "test_launchd_print::test_has_the_verbatim_recordings_lines_in_their_order"
    ),
    r"launchctl/launchd_log": "test_launchd::test_the_log_has_the_recorded_sequences",
    r"df_mount/": "test_cmd_system::test_mount_prints_the_expected_lines",
    r"memory_pressure/": "test_cmd_system::test_memory_pressure_prints_the_recorded_report",
    r"sysctl/sysctl_hw": "test_cmd_system::test_sysctl_lists_what_was_recorded",
    r"sysctl/sysctl_machdep": "test_cmd_system::test_sysctl_of_an_m1_air_lists_what_was_recorded",
    r"softwareupdate/list": (
        "test_cmd_system::test_softwareupdate_offers_the_tools_only_with_the_trigger_file"
    ),
    r"softwareupdate/COMPOSED": (
        "test_cmd_system::test_softwareupdate_offers_the_tools_only_with_the_trigger_file"
    ),
    r"system_profiler/SPNVMe": "test_cmd_system::test_system_profiler_prints_the_recorded_storage_json",
    r"system_profiler/SPHardware": ("test_cmd_system::test_number_of_processors_comes_in_all_recorded_forms"),
    r"users/sysadminctl": (
        "test_cmd_directory::test_sysadminctl_without_full_disk_access_exits_0_with_another_uid"
    ),
    r"users/dseditgroup": "test_cmd_directory::test_membership_is_told_in_the_recorded_words",
    r"users/COMPOSED": ("test_cmd_directory::test_the_recipe_makes_a_hidden_user_attribute_by_attribute"),
}
"""How recordings begin, and the test that prints them as a whole: `file::function or class`."""

Outputs = Iterator[Result]


def diskutil_list() -> Outputs:
    mac = bare()
    mac.disks = [Disk(0, 500277790720, "APPLE SSD AP0512Q")]
    macos, linux = Container("A", 3, 0, 2, "B", 380000000000), Container("L", 4, 0, 5, "P", 2500000000)
    snapshot = Snapshot("9", "com.apple.os.update-...")
    macos.volumes = [
        Volume("1", "Macintosh HD", 1, in_use_bytes=15200000000, snapshot=snapshot),
        Volume("2", "Preboot", 2, in_use_bytes=887600000),
        Volume("3", "Recovery", 3, in_use_bytes=798700000),
        Volume("5", "Data", 5, in_use_bytes=157100000000),
        Volume("6", "VM", 6, in_use_bytes=20480),
    ]
    names = {
        "Asahi Linux - Data": 884700,
        "Asahi Linux": 1100000,
        "Preboot": 63600000,
        "Recovery": 1800000000,
    }
    linux.volumes = [
        Volume(str(n), name, n, in_use_bytes=used) for n, (name, used) in enumerate(names.items(), 1)
    ]
    mac.containers = [Container("I", 1, 0, 1, "", 524300000, "Apple_APFS_ISC"), macos, linux]
    yield run(mac, "diskutil", "list")


def diskutil_quota() -> Outputs:
    mac = bare()
    mac.disks.append(Disk(4, 10**12, "X", "USB", internal=False))
    size, used = 994662584320, 410932387840
    uuid, store = "0BE7A7F4-4E48-4A5F-8CA5-8B1F0F1C8C40", "9E0D2B70-0000-0000-0000-000000000000"
    inner = Container(uuid, 3, 0, 2, store, size, reported_free_bytes=size - used)
    inner.volumes = [
        Volume(
            "1A6C0A79-0000-0000-0000-000000000000",
            "Macintosh HD",
            1,
            roles=["System"],
            in_use_bytes=11534336000,
            mount_point="/",
        ),
        Volume(
            "6CD8025B-76B4-4336-918B-04FEE498F9BD",
            "nova-kill1",
            7,
            in_use_bytes=32768,
            quota_bytes=64000000,
            mount_point="/Volumes/nova-kill1",
        ),
    ]
    outer = Container("2F0B1111-0000-0000-0000-000000000000", 5, 4, 2, "P", 10**12)
    outer.volumes = [
        Volume("7C0D2222-0000-0000-0000-000000000000", "nova-old", 1, in_use_bytes=16384),
        Volume("X", "cut off by the publisher", 2),
    ]
    mac.containers = [inner, outer]
    yield run(mac, "diskutil", "apfs", "list")


def diskutil_errors() -> Outputs:
    yield run(bare(), "diskutil", "apfs", "addVolume", "diskX", "APFS", "x")
    yield run(bare(), "diskutil", "apfs", "addVolume", "disk0s2", "APFS", "x")
    mac = bare()
    mac.faults.append("busy-volume")
    mac.boot_container.volumes.append(Volume("Q", "q", 7, mount_point="/q", backing="q"))
    yield run(mac, "diskutil", "apfs", "deleteVolume", "q")


def fdesetup() -> Outputs:
    for state in ("on", "off", "deferred"):
        mac = bare()
        mac.filevault = state
        yield run(mac, "fdesetup", "status")


def firewall() -> Outputs:
    mac = bare()
    for state in (0, 1, 2):
        mac.firewall.state, mac.firewall.stealth = state, state == 1
        mac.firewall.apps = [f"/app{n}" for n in range(8)]
        for option in ("--getglobalstate", "--getstealthmode", "--getblockall", "--listapps"):
            yield run(mac, "socketfilterfw", option)


def vm_stat() -> Outputs:
    mac = bare(memory_gb=32)
    mac.memory.pages = {
        "Pages free": 4156,
        "Pages active": 683816,
        "Pages wired down": 462585,
        '"Translation faults"': 1234567890,
        "File-backed pages": 410000,
    }
    yield run(mac, "vm_stat")


def pmset() -> Outputs:
    mac = bare()
    rows = re.findall(r"(?m)^ (\S.*?) +(\S+)(?: \(.*)?$", text("pmset/KNOWLEDGE_pmset_g__desktop.txt"))
    mac.power.settings = {key: int(value) if value.isdigit() else value for key, value in rows}  # type: ignore[misc]
    mac.power.reasons = {"sleep": "sleep prevented by powerd"}
    yield run(mac, "pmset", "-g")


def pmset_therm() -> Outputs:
    yield run(bare(), "pmset", "-g", "therm")


def mdutil(tmp_path: Path) -> Outputs:
    mac = bare()
    (tmp_path / ".metadata_never_index").touch()
    mac.boot_container.volumes += [
        Volume("X", "SD_card", 7, mount_point="/Volumes/SD_card", backing="x"),
        Volume("Y", "y", 8, mount_point=str(tmp_path), backing="y"),
    ]
    for words in (
        ("-s", "/"),
        ("-s", "/System/Volumes/Data"),
        ("-i", "off", "/Volumes/SD_card"),
        ("-i", "off", "/"),
        ("-s", str(tmp_path)),
    ):
        yield run(mac, "mdutil", *words)
    mac.spotlight = "disabled"
    yield run(mac, "mdutil", "-s", "/")


def tmutil() -> Outputs:
    yield run(bare(), "tmutil", "addexclusion", "-v", "/Volumes/X")
    mac = run(bare(), "tmutil", "addexclusion", "/Users/admin/foo").mac
    yield run(mac, "tmutil", "isexcluded", "/Users/admin/foo", "/Users/admin/bar")


def remote_login() -> Outputs:
    mac = bare()
    for mac.remote_login in (True, False):
        yield run(mac, "systemsetup", "-getremotelogin")
    yield run(bare(), "systemsetup", "-setremotelogin", "on")


def sysctl() -> Outputs:
    mac = bare(memory_gb=64, chip="Apple M2 Ultra", model="Mac14,14")
    mac.memory.swap_total_bytes, mac.memory.swap_used_bytes = 2048 << 20, int(1234.56 * (1 << 20))
    names = re.findall(r"(?m)^([a-z][\w.]+):", text("sysctl/COMPOSED_sysctl_one_liners.txt"))
    for source in (mac, system.m1_pro()):
        for name in {*names, "iogpu.nosuch", "iogpu.wired_limit_mb=98304"}:
            yield run(source, "sysctl", name)


def xcode() -> Outputs:
    mac = bare()
    yield run(mac, "xcode-select", "-p")
    yield run(mac, "python3", "--version", tty=True)
    mac.toolchain.developer_dir = "/Library/Developer/CommandLineTools"
    yield run(mac, "git", "--version")
    mac.toolchain.installed = True
    yield run(mac, "xcode-select", "-p")
    yield run(mac, "xcode-select", "--install")


def dscl() -> Outputs:
    yield run(bare(), "dscl", ".", "-read", "/Users/nosuch")
    yield run(bare(), "dscl", ".", "-read", "/Users/admin", "NoSuchKey")
    yield run(bare(), "dscl", ".", "-delete", "/Users/admin")
    yield run(bare(), "dscl", ".", "create", "/Users/x", uid=501)
    yield run(bare(), "dscl", ".", "-passwd", "/Users/admin", "new", uid=501)
    mac = bare()
    mac.faults.append("dscl-hiccup")
    yield run(mac, "dscl", ".", "-create", "/Users/x")


def profiler() -> Outputs:
    mac = bare(model="MacBookAir10,1", chip="Apple M1", memory_gb=16, form="MacBook Air")
    hardware = mac.hardware
    hardware.serial, hardware.boot_rom, hardware.memory_type = "E9O1Q6W5FAKE", "6723.81.1", "LPDDR4"
    hardware.platform_uuid = "2B05150B-FA33-45BD-90F0-3369BF908E3E"
    hardware.provisioning_udid = "DEADBEAF-DEADBEAFDEADBEAF"
    mac.os.version, mac.os.build, mac.os.kernel = "11.2.3", "20D91", "20.3.0"
    mac.names.computer = "MacBook Air de test"
    for name in ("Hardware", "Memory", "Software", "Displays"):
        yield run(mac, "system_profiler", f"SP{name}DataType")


REPLAYS: dict[str, Callable[..., Outputs]] = {
    "diskutil/asahi_cheatsheet__diskutil_list_2.txt": diskutil_list,
    "diskutil/apfs_list__with_quota_volume__MacStudio_macOS26.txt": diskutil_quota,
    "diskutil/COMPOSED_error_codes.txt": diskutil_errors,
    "fdesetup/fdesetup_status.txt": fdesetup,
    "firewall/socketfilterfw.txt": firewall,
    "pmset/KNOWLEDGE_pmset_g__desktop.txt": pmset,
    "pmset/pmset_g_therm.txt": pmset_therm,
    "spotlight_tm/mdutil_status.txt": mdutil,
    "spotlight_tm/tmutil.txt": tmutil,
    "ssh/messages.txt": remote_login,
    "sysctl/COMPOSED_sysctl_one_liners.txt": sysctl,
    "system_profiler/system_profiler_text__MacBookAir10,1_M1_macOS11.0.txt": profiler,
    "users/dscl_errors.txt": dscl,
    "vm_stat/COMPOSED_vm_stat__32GB.txt": vm_stat,
    "xcode/messages.txt": xcode,
}


def text(name: str) -> str:
    return (RECORDINGS / name).read_text()


def squeezed(line: str) -> str:
    """A line without its error code, the collector's words before or behind it, and its margins."""
    line = re.sub(r"^(-69\d+|\(no code\)|full line:) +|^Error: (-69\d+): | {3,}#.*", "", line.strip())
    return re.sub(r"^Error starting .*?: (.*) \(-69\d+\)$", r"\1", line).strip()


def without(recorded: list[str], starts: tuple[str, ...]) -> list[str]:
    """The lines but those that begin so, each with the lines that are indented below it."""
    kept, below = [], -1
    for line in recorded:
        indent = len(line) - len(line.lstrip())
        if below >= 0 and indent > below:
            continue
        below = indent if line.strip().startswith(starts) else -1
        if below < 0:
            kept.append(line)
    return kept


@pytest.mark.parametrize("name", REPLAYS)
def test_every_line_is_printed_or_said_not_to_be(name: str, tmp_path: Path) -> None:
    replay = REPLAYS[name]
    results = replay(tmp_path) if replay is mdutil else replay()
    printed = {squeezed(line) for result in results for line in f"{result.out}\n{result.err}".splitlines()}
    recorded = [line.rstrip() for line in text(name).splitlines() if line.strip() and line[0] != "#"]
    starts = NOT_REPLAYED[name].lacks if name in NOT_REPLAYED else ()
    assert [line for line in without(recorded, starts) if squeezed(line) not in printed] == []
    for start in starts:
        assert [
            line for line in recorded if line.strip().startswith(start) and squeezed(line) not in printed
        ], f"{start} is printed"


def whole(name: str) -> str | None:
    return next((test for start, test in WHOLE.items() if re.match(start, name)), None)


@pytest.mark.parametrize("name", ALL)
def test_every_recording_is_replayed(name: str) -> None:
    left_out = name in NOT_REPLAYED and not NOT_REPLAYED[name].lacks
    assert left_out + (name in REPLAYS) + (whole(name) is not None) == 1


@pytest.mark.parametrize(("start", "test"), WHOLE.items(), ids=lambda value: value.rpartition("/")[2])
def test_the_test_that_replays_it_is_there(start: str, test: str) -> None:
    assert [name for name in ALL if re.match(start, name)]
    file, _, wanted = test.partition("::")
    names = [
        node.name
        for path in Path(__file__).parents[2].glob(f"*/**/{file}.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert wanted in names


def test_what_is_not_replayed_is_about_recordings_that_exist() -> None:
    assert set(NOT_REPLAYED) <= set(ALL)
