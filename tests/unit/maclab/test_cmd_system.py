"""Kernel state, memory, power, tool chain and reports: what is recorded is what the commands print."""

from __future__ import annotations

import io
import json
import os
import plistlib
import re
import socket
from pathlib import Path

import pytest

from maclab.commands import lsof
from maclab.machine import sysctls
from maclab.machine.context import Context
from maclab.machine.model import Mac, stock_wired_limit_mib
from maclab.machine.units import GIB
from maclab.machine.volumes import Container, Disk, Snapshot, Volume
from tests.unit.maclab.fake import RECORDINGS, bare, recording, run

SYSCTL = "sysctl/sysctl_hw_machdep_kern__MacBookPro18,1_M1Pro_macOS14.4.1.txt"


def m1_pro() -> Mac:
    """The MacBook Pro of the sysctl recording."""
    mac = bare(model="MacBookPro18,1", chip="Apple M1 Pro", memory_gb=32, storage_gb=512)
    mac.os.version, mac.os.build, mac.os.kernel = "14.4.1", "23E224", "23.4.0"
    kernel = "Darwin Kernel Version 23.4.0: Fri Mar 15 00:10:42 PDT 2024"
    mac.os.kernel_version = f"{kernel}; root:xnu-10063.101.17~1/RELEASE_ARM64_T6000"
    mac.names.host = "akasurde-mac"
    mac.boot.session_uuid = "0E097B96-CB5F-4347-983D-87976C3FA3CB"
    mac.memory.usable_bytes = 33689255936
    mac.memory.free_percent = 71
    return mac


def same_but_for_time(line: str) -> str:
    return line.partition("}")[0].rstrip()


def test_sysctl_lists_what_was_recorded() -> None:
    mac = m1_pro()
    mac.boot.booted_at_s = 1711644864.393940
    out = run(mac, "sysctl", "hw", "machdep", "kern", "hw.model").out
    wanted = recording(SYSCTL)
    got = [same_but_for_time(line) for line in out.splitlines()]
    assert got == [same_but_for_time(line) for line in wanted.splitlines()]


def test_sysctl_of_an_m1_air_lists_what_was_recorded() -> None:
    mac = bare(model="MacBookAir10,1", chip="Apple M1", memory_gb=16)
    out = run(mac, "sysctl", "machdep.cpu").out
    assert sorted(out.splitlines()) == sorted(
        recording("sysctl/sysctl_machdep.cpu__M1_macOS11.0.txt").splitlines()
    )


def test_sysctl_one_liners_have_the_recorded_form() -> None:
    mac = bare(memory_gb=64, chip="Apple M2 Ultra", model="Mac14,14")
    mac.memory.swap_total_bytes, mac.memory.swap_used_bytes = 2048 << 20, int(1234.56 * (1 << 20))
    text = recording("sysctl/COMPOSED_sysctl_one_liners.txt")
    for name in (
        "hw.memsize",
        "hw.ncpu",
        "machdep.cpu.brand_string",
        "hw.pagesize",
        "hw.perflevel0.name",
        "kern.memorystatus_vm_pressure_level",
        "vm.swapusage",
        "iogpu.wired_limit_mb",
    ):
        assert run(mac, "sysctl", name).out in text


def test_the_m5_has_super_and_performance_cores() -> None:
    mac = bare(chip="Apple M5 Max", model="Mac17,6", memory_gb=128)
    out = run(
        mac, "sysctl", "-n", "hw.perflevel0.name", "hw.perflevel1.name", "hw.perflevel0.physicalcpu"
    ).out
    assert out == "Super\nPerformance\n6\n"


def test_setting_the_wired_limit_prints_old_and_new_and_a_reboot_forgets_it() -> None:
    result = run(bare(), "sysctl", "iogpu.wired_limit_mb=98304")
    assert (result.status, result.out) == (0, "iogpu.wired_limit_mb: 0 -> 98304\n")
    assert result.out in recording("sysctl/COMPOSED_sysctl_one_liners.txt")
    assert result.mac.memory.wired_limit_mib == 98304
    result.mac.renumber()
    assert run(result.mac, "sysctl", "-n", "iogpu.wired_limit_mb").out == "0\n"


def test_sysctl_refuses_unknown_names_and_plain_users() -> None:
    unknown = run(bare(), "sysctl", "iogpu.nosuch")
    assert (unknown.status, unknown.out, unknown.err) == (1, "", "sysctl: unknown oid 'iogpu.nosuch'\n")
    refused = run(bare(), "sysctl", "iogpu.wired_limit_mb=1", uid=501)
    assert refused.status == 1
    assert "Operation not permitted" in refused.err
    mac = bare()
    mac.faults.append("wired-limit-refused")
    assert run(mac, "sysctl", "iogpu.wired_limit_mb=1").status == 1
    assert "-x" in run(bare(), "sysctl", "-x", "hw").err


def test_a_running_engine_shows_in_the_memory_numbers(tmp_path: Path) -> None:
    mac = bare(memory_gb=64)
    (tmp_path / "wired").mkdir()
    (tmp_path / "wired" / "1").write_text(str(56 * GIB))
    state = sysctls.memory_state(mac, tmp_path)
    assert state.wired_bytes == 56 * GIB + mac.memory.base_wired_bytes
    assert state.pressure_level > 1
    (tmp_path / "wired" / "999999999").write_text(str(GIB))
    assert sysctls.memory_state(mac, tmp_path).wired_bytes == state.wired_bytes


@pytest.mark.parametrize(
    ("memory_gb", "policy", "mib"),
    [(512, "newer", 464 * 1024), (32, "older", 21845), (64, "older", 49152), (128, "older", 98304)],
)
def test_stock_wired_limits_are_the_measured_ones(memory_gb: int, policy: str, mib: int) -> None:
    assert abs(stock_wired_limit_mib(memory_gb, policy) - mib) <= 1


def test_memory_pressure_prints_the_recorded_report() -> None:
    mac = bare(memory_gb=32)
    text = recording("memory_pressure/memory_pressure__AppleSilicon_32GB.txt")
    names = {
        "Pages used by compressor": "Pages occupied by compressor",
        "Pages decompressed": "Decompressions",
        "Pages compressed": "Compressions",
    }
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip().isdigit():
            mac.memory.pages[names.get(name, name)] = int(value)
    mac.memory.free_percent = 66
    assert run(mac, "memory_pressure").out == text
    large = bare(memory_gb=128)
    large.memory.free_percent = 84
    assert run(large, "memory_pressure", "-Q").out == recording(
        "memory_pressure/memory_pressure_Q__128GB.txt"
    )


def test_vm_stat_prints_the_recorded_form() -> None:
    mac = bare(memory_gb=32)
    mac.memory.pages = {
        "Pages free": 4156,
        "Pages active": 683816,
        "Pages wired down": 462585,
        '"Translation faults"': 1234567890,
        "File-backed pages": 410000,
    }
    out = run(mac, "vm_stat").out.splitlines()
    for line in recording("vm_stat/COMPOSED_vm_stat__32GB.txt").splitlines():
        assert line in out


def test_pmset_prints_the_recorded_settings() -> None:
    mac = bare()
    text = recording("pmset/KNOWLEDGE_pmset_g__desktop.txt")
    mac.power.settings = {
        "standby": 0,
        "Sleep On Power Button": 1,
        "autorestart": 1,
        "powernap": 0,
        "networkoversleep": 0,
        "disksleep": 0,
        "sleep": 0,
        "ttyskeepawake": 1,
        "displaysleep": 10,
    }
    mac.power.reasons = {"sleep": "sleep prevented by powerd"}
    out = run(mac, "pmset", "-g").out
    assert out in text
    assert run(mac, "pmset", "-g", "therm").out == recording("pmset/pmset_g_therm.txt")


def test_pmset_sets_what_the_mac_has_warns_about_the_rest_and_refuses_plain_users() -> None:
    words = [
        "sleep",
        "0",
        "disksleep",
        "0",
        "displaysleep",
        "0",
        "womp",
        "1",
        "autorestart",
        "1",
        "powernap",
        "0",
    ]
    result = run(bare(), "pmset", "-a", *words)
    assert (result.status, result.out, result.err) == (0, "", "")
    assert result.mac.power.settings["sleep"] == 0
    odd = run(bare(), "pmset", "-a", "lidwake", "0")
    assert odd.status == 0
    assert "lidwake" in odd.err
    assert run(bare(), "pmset", "-a", "sleep", "0", uid=501).status == 1


def test_bare_macs_have_stubs_and_no_developer_directory() -> None:
    messages = (RECORDINGS / "xcode/messages.txt").read_text()
    selected = run(bare(), "xcode-select", "-p")
    assert (selected.status, selected.out) == (2, "")
    assert selected.err in messages
    stub = run(bare(), "python3", "--version")
    assert (stub.status, stub.out) == (1, "")
    assert stub.err.startswith("xcode-select: note: No developer tools were found")
    mac = bare()
    mac.toolchain.developer_dir = "/Library/Developer/CommandLineTools"
    stale = run(mac, "git", "--version")
    assert stale.status == 1
    assert stale.err in messages
    mac.toolchain.installed = True
    assert run(mac, "xcode-select", "-p").out == "/Library/Developer/CommandLineTools\n"
    assert run(mac, "xcode-select", "--install").status == 1


def test_softwareupdate_offers_the_tools_only_with_the_trigger_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from maclab.commands import softwareupdate

    trigger = tmp_path / "trigger"
    monkeypatch.setattr(softwareupdate, "TRIGGER", trigger)
    assert "Command Line Tools" not in run(bare(), "softwareupdate", "-l").out
    trigger.touch()
    result = run(bare(), "softwareupdate", "--list")
    mac = bare()
    mac.updates.offered[0] |= {"label": "macOS Tahoe 26.5.2-25F84", "title": "macOS Tahoe 26.5.2"}
    assert result.out == recording("softwareupdate/list__macOS26_clt_and_os.txt")
    mac.updates.offered, mac.faults = [], ["older-tools-label"]
    # Recorded with two versions on offer; a simulated Mac offers the newer one, in words of that form.
    older = recording("softwareupdate/COMPOSED_list__older_label_format.txt").splitlines()
    for line in run(mac, "softwareupdate", "-l").out.splitlines():
        assert re.sub(r"Size: \d+", "Size: 888102", line) in older
    mac.faults = ["no-tools-offered"]
    none = run(mac, "softwareupdate", "-l")
    assert none.out + none.err == recording("softwareupdate/list__none.txt")
    assert none.err == "No new software available.\n"
    assert run(mac, "softwareupdate", "-i", "x", uid=501).status == 1


def test_system_profiler_prints_the_recorded_text_of_an_m1() -> None:
    mac = bare(model="MacBookAir10,1", chip="Apple M1", memory_gb=16, form="MacBook Air")
    hardware = mac.hardware
    hardware.serial, hardware.boot_rom = "E9O1Q6W5FAKE", "6723.81.1"
    hardware.platform_uuid, hardware.provisioning_udid = (
        "2B05150B-FA33-45BD-90F0-3369BF908E3E",
        "DEADBEAF-DEADBEAFDEADBEAF",
    )
    text = recording("system_profiler/system_profiler_text__MacBookAir10,1_M1_macOS11.0.txt")
    assert run(mac, "system_profiler", "SPHardwareDataType").out == text[: text.index("Memory:\n\n")]
    hardware.memory_type = "LPDDR4"
    assert run(mac, "system_profiler", "SPMemoryDataType").out in text


def test_system_profiler_prints_the_recorded_storage_json() -> None:
    mac = bare(storage_gb=256)
    mac.disks = [Disk(0, 251000193024, "APPLE SSD AP0256Z")]
    macos = mac.boot_container
    macos.reported_free_bytes = 23142219776
    macos.volumes = [
        Volume(
            "6B66F471-BAD0-40FF-BC86-D2EBEC4EDB06",
            "Data",
            5,
            roles=["Data"],
            mount_point="/System/Volumes/Data",
        ),
        Volume(
            "A",
            "Macintosh HD",
            1,
            roles=["System"],
            snapshot=Snapshot("00E1FB85-0892-4B5B-BCD1-5F492F801A00", "s"),
        ),
    ]
    out = run(
        mac, "system_profiler", "-json", "SPNVMeDataType", "SPSerialATADataType", "SPStorageDataType"
    ).out
    text = (
        RECORDINGS / "system_profiler/SPNVMe_SPSerialATA_SPStorage_json__AppleSilicon_256GB.json"
    ).read_text()
    assert json.loads(out) == json.loads(text)
    assert out.strip() == text.strip()


@pytest.mark.parametrize(
    ("chip", "model", "form", "processors"),
    [
        ("Apple M4 Max", "Mac16,5", "3", "proc 16:12:4"),
        ("Apple M5 Max", "Mac17,6", "4", "proc 18:6:0:12"),
        ("Apple M2 Ultra", "Mac14,14", "4", "proc 24:16:8:0"),
        ("Apple M2", "Mac14,7", "3", "proc 8:4:4"),
    ],
)
def test_number_of_processors_comes_in_all_recorded_forms(
    chip: str, model: str, form: str, processors: str
) -> None:
    mac = bare(chip=chip, model=model)
    mac.hardware.processors_form = form
    assert f'"{processors}"' in recording("system_profiler/SPHardware_other_models__values.txt")
    data = json.loads(run(mac, "system_profiler", "-json", "SPHardwareDataType").out)
    assert data["SPHardwareDataType"][0]["number_processors"] == processors
    mac.hardware.processors_form = "int"
    data = json.loads(run(mac, "system_profiler", "-json", "SPHardwareDataType").out)
    assert isinstance(data["SPHardwareDataType"][0]["number_processors"], int) or "M5" in chip


def test_fdesetup_speaks_and_exits_as_recorded() -> None:
    text = recording("fdesetup/fdesetup_status.txt")
    for state, status in (("on", 0), ("off", 1), ("deferred", 1)):
        mac = bare()
        mac.filevault = state
        result = run(mac, "fdesetup", "status")
        assert result.out in text
        assert result.status == 0
        assert run(mac, "fdesetup", "isactive").status == status


def test_mdutil_prints_each_recorded_state() -> None:
    text = recording("spotlight_tm/mdutil_status.txt")
    mac = bare()
    mac.boot_container.volumes.append(Volume("X", "SD_card", 7, mount_point="/Volumes/SD_card", backing="x"))
    assert run(mac, "mdutil", "-s", "/").out == "/:\n\tIndexing enabled. \n"
    off = run(mac, "mdutil", "-i", "off", "/Volumes/SD_card")
    assert off.out in text
    mac.spotlight = "disabled"
    assert "Spotlight server is disabled." in run(mac, "mdutil", "-s", "/").out
    assert run(mac, "mdutil", "-i", "off", "/", uid=501).status == 1


def test_tmutil_needs_full_disk_access_for_volumes() -> None:
    text = recording("spotlight_tm/tmutil.txt")
    refused = run(bare(), "tmutil", "addexclusion", "-v", "/Volumes/X")
    assert refused.status == 80
    assert refused.err in text
    mac = bare()
    done = run(mac, "tmutil", "addexclusion", "/Users/admin/foo")
    assert done.status == 0
    assert run(done.mac, "tmutil", "isexcluded", "/Users/admin/foo", "/Users/admin/bar").out in text
    mac.full_disk_access = True
    assert run(mac, "tmutil", "addexclusion", "-v", "/Volumes/X").status == 0


def test_the_firewall_tells_its_state_as_recorded() -> None:
    text = recording("firewall/socketfilterfw.txt") + (RECORDINGS / "firewall/socketfilterfw.txt").read_text()
    mac = bare()
    for state in (0, 1, 2):
        mac.firewall.state = state
        assert run(mac, "socketfilterfw", "--getglobalstate").out in text
    assert run(mac, "socketfilterfw", "--getstealthmode").out in text
    mac.firewall.apps = [f"/app{n}" for n in range(8)]
    assert run(mac, "socketfilterfw", "--listapps").out.splitlines()[0].rstrip() in text


def test_remote_login_cannot_be_switched_without_full_disk_access() -> None:
    text = recording("ssh/messages.txt") + (RECORDINGS / "ssh/messages.txt").read_text()
    assert run(bare(), "systemsetup", "-getremotelogin").out in text
    refused = run(bare(), "systemsetup", "-setremotelogin", "on")
    assert refused.status == 1
    assert refused.out in text
    older = bare()
    older.quirks.remote_login_refusal_rc = 0
    assert run(older, "systemsetup", "-setremotelogin", "on").status == 0
    assert run(bare(), "systemsetup", "-gettimezone", uid=501).status == 1


def test_mount_prints_the_expected_lines() -> None:
    text = recording("df_mount/KNOWLEDGE_mount_lines_AppleSilicon.txt")
    mac = bare()
    mac.disks.append(Disk(4, 10**12, "USB", "USB", internal=False))
    external = Container("E", 5, 4, 2, "P", 10**12)
    external.volumes = [Volume("F", "2T SSD", 1, mount_point="/Volumes/2T SSD", owners_enabled=False)]
    external.volumes[0].mount_options = ["nodev", "nosuid"]
    mac.containers.append(external)
    mac.boot_container.volumes.append(Volume("N", "Nix Store", 7, mount_point="/nix"))
    got = run(mac, "mount").out.splitlines()
    for line in text.splitlines():
        if not line.startswith("#"):
            assert line in got


def test_plutil_and_defaults_agree_about_a_property_list(tmp_path: Path) -> None:
    path = tmp_path / "x.plist"
    path.write_bytes(plistlib.dumps({"A": 1, "B": True}))
    assert run(bare(), "plutil", "-lint", str(path)).out == f"{path}: OK\n"
    path.write_text("nonsense")
    assert run(bare(), "plutil", "-lint", str(path)).status == 1
    missing = run(bare(), "defaults", "read", str(tmp_path / "y"), "K")
    assert missing.status == 1
    assert "does not exist" in missing.err


def test_names_that_are_not_set_say_so_on_standard_error() -> None:
    result = run(bare(), "scutil", "--get", "HostName")
    assert (result.status, result.out, result.err) == (1, "", "HostName: not set\n")
    assert run(bare(), "scutil", "--get", "LocalHostName").out == "tyo-01\n"


def test_identity_of_the_system_is_macos() -> None:
    assert run(bare(), "sw_vers", "-productVersion").out == "26.5.1\n"
    assert run(bare(), "uname", "-srm").out == "Darwin 25.5.0 arm64\n"
    assert run(bare(), "uname", "--help").status == 1


@pytest.mark.parametrize("fields", [["-F", "pn"], ["-Fpn"], ["-F", "-nP"]], ids=" ".join)
def test_lsof_tells_the_connections_of_one_process(fields: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()), server.accept()[0] as taken:
            ends = "{}:{}->{}:{}".format(*taken.getsockname(), *taken.getpeername())
            out = io.StringIO()
            which = ["-a", "-p", str(os.getpid()), "-iTCP", "-sTCP:ESTABLISHED"]
            assert lsof.main(Context(["lsof", "-nP", *which, *fields], stdout=out, stderr=out)) == 0
            assert f"n{ends}" in out.getvalue().splitlines()
            assert out.getvalue().count("\nf") == 2
        out = io.StringIO()
        assert lsof.main(Context(["lsof", "-nP", *which, *fields], stdout=out, stderr=out)) == 1
