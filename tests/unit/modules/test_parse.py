"""Parsers of macOS output, on recorded output (tests/recordings)."""

from pathlib import Path

import pytest

from ds4agent.mac import parse

RECORDINGS = Path(__file__).parents[2] / "recordings"


def recorded(name: str) -> str:
    return (RECORDINGS / name).read_text()


class TestDiskutil:
    def test_containers_carry_volumes_quota_and_free_space(self):
        text = recorded("diskutil/apfs_list_plist__iSC_container__AppleSilicon.plist")
        (container,) = parse.apfs_containers(text)
        assert container["reference"] == "disk1"
        assert container["free_bytes"] == 505962496
        assert container["physical_disk"] == "disk0"
        assert [(v["name"], v["device"], v["roles"], v["filevault"]) for v in container["volumes"]] == [
            ("iSCPreboot", "disk1s1", ["Preboot"], False),
            ("xART", "disk1s2", ["xART"], True),
        ]

    def test_volume_info_tells_mount_point_case_and_ownership(self):
        info = parse.volume_info(recorded("diskutil/RECONSTRUCTED_info_plist__disk3s7_AppleSilicon.plist"))
        assert info == {
            "uuid": "6CD8025B-76B4-4336-918B-04FEE498F9BD",
            "device": "disk3s7",
            "name": "ds4",
            "mount_point": "/Volumes/ds4",
            "container": "disk3",
            "internal": True,
            "case_sensitive": False,
            "owners_enabled": True,
        }

    def test_ownership_of_an_unmounted_volume_is_unknown(self):
        text = recorded("diskutil/RECONSTRUCTED_info_plist__disk3s7_AppleSilicon.plist")
        info = parse.volume_info(text.replace("/Volumes/ds4", ""))
        assert info["mount_point"] == ""
        assert info["owners_enabled"] is None

    def test_root_is_a_snapshot_and_only_its_container_is_of_use(self):
        text = recorded("diskutil/info_plist__root_snapshot__Intel_BigSur.plist")
        assert parse.volume_info(text)["container"] == "disk1"

    def test_error_plist_raises_with_diskutils_own_words(self):
        with pytest.raises(parse.ParseError, match="Could not find disk: /Volumes/SMB"):
            parse.plist(recorded("diskutil/info_plist__not_found.plist"))

    @pytest.mark.parametrize("text", ["", "Could not find disk: x", "<plist><dict>"])
    def test_anything_else_raises(self, text):
        with pytest.raises(parse.ParseError):
            parse.plist(text)

    @pytest.mark.parametrize(
        ("text", "device"),
        [
            (recorded("diskutil/apfs_addVolume__casesens_mountpoint__macOS26.6.2_tartVM.txt"), "disk3s7"),
            (recorded("diskutil/COMPOSED_apfs_addVolume__default_mount.txt"), "disk5s2"),
            ("Creating APFS Volume\nCreated new APFS Volume disk3s9\nMounting APFS Volume\n", "disk3s9"),
            ("Could not find APFS Container Reference disk9\n", None),
        ],
    )
    def test_device_of_an_added_volume(self, text, device):
        assert parse.added_device(text) == device

    @pytest.mark.parametrize(
        ("text", "holder"),
        [
            (recorded("diskutil/COMPOSED_apfs_deleteVolume__busy__rc1.txt"), "process 18543 (zsh)"),
            (
                "Volume data on disk2s1 failed to unmount: dissented by PID 2387 (/bin/zsh)",
                "process 2387 (/bin/zsh)",
            ),
            ("Error: -69888: Couldn't unmount disk", None),
        ],
    )
    def test_who_holds_a_volume(self, text, holder):
        assert parse.holder(text) == holder

    def test_mount_lines_with_blanks_and_maps(self):
        mounts = parse.mounts(recorded("df_mount/KNOWLEDGE_mount_lines_AppleSilicon.txt"))
        by_point = {mount["mount_point"]: mount for mount in mounts}
        assert by_point["/"]["device"] == "disk3s1s1"
        assert by_point["/nix"]["type"] == "apfs"
        assert "noowners" in by_point["/Volumes/2T SSD"]["options"]
        assert by_point["/System/Volumes/Data/home"]["device"] == "map auto_home"

    def test_spotlight_states(self):
        states = parse.mdutil(recorded("spotlight_tm/mdutil_status.txt").split("#")[0])
        assert states == {"/": True, "/System/Volumes/Data": True, "/Volumes/SD_card": False}
        assert parse.mdutil("/v:\n\tError: unknown indexing state.\n") == {"/v": None}
        because = "/v:\n\tIndexing and searching disabled because of .metadata_never_index file at root.\n"
        assert parse.mdutil(because) == {"/v": False}


class TestLaunchctl:
    def test_running_daemon(self):
        job = parse.launchctl_print(recorded("launchctl/COMPOSED_print_system_full_UserName_daemon.txt"))
        assert (job["state"], job["pid"], job["runs"], job["last_exit_code"]) == ("running", 893, 1, None)
        assert (job["username"], job["exit_timeout_s"]) == ("_ds4", 60)
        assert job["program"] == "/opt/ds4/bin/ds4-server"

    def test_recorded_daemon(self):
        job = parse.launchctl_print(recorded("launchctl/print_system_running__verbatim.txt"))
        assert job["path"] == "/Library/LaunchDaemons/com.byliu.egress-guard.daemon.plist"
        assert job["exit_timeout_s"] == 5

    @pytest.mark.parametrize(
        ("lines", "state", "code", "signal"),
        [
            ("\tstate = exited\n\tlast terminating signal = Killed: 9\n\t\tstate = on", "exited", None, 9),
            ("\tstate = not running\n\tlast terminating signal = Terminated: 15\n", "not running", None, 15),
            ("\tstate = spawn scheduled\n\tlast exit code = 1\n", "spawn scheduled", 1, None),
            ("\tstate = running\n\tpid = 123\n\tlast exit code = (never exited)\n", "running", None, None),
            ("\tstate = not running\n\tlast exit code = 78: EX_CONFIG\n", "not running", 78, None),
        ],
    )
    def test_ways_to_end(self, lines, state, code, signal):
        job = parse.launchctl_print(lines)
        assert (job["state"], job["last_exit_code"], job["last_signal"]) == (state, code, signal)

    def test_a_reason_of_macos_stands_in_place_of_a_code(self):
        job = parse.launchctl_print("x = {\n\truns = 153\n\tlast exit reason = OS_REASON_CODESIGNING\n}\n")
        assert (job["last_exit_reason"], job["last_exit_code"], job["last_signal"]) == (
            "OS_REASON_CODESIGNING",
            None,
            None,
        )
        assert parse.launchctl_print("x = {\n\tlast exit code = 0\n}\n")["last_exit_reason"] is None

    def test_other_forms_of_a_job_are_read_alike(self):
        old = parse.launchctl_print(recorded("launchctl/print_com.apple.alf_old_macos.txt"))
        assert (old["state"], old["pid"], old["runs"]) == ("running", 8116, 1)
        assert old["program"] == "/usr/libexec/ApplicationFirewall/socketfilterfw"
        item = parse.launchctl_print(recorded("launchctl/print_gui_501_com.vendor.helper.txt"))
        assert (item["state"], item["pid"], item["last_exit_code"]) == ("not running", None, 0)

    def test_disabled_store_in_both_forms(self):
        new = parse.launchctl_disabled(recorded("launchctl/print_disabled__macOS26.6.txt"))
        old = parse.launchctl_disabled(recorded("launchctl/KNOWLEDGE_print_disabled__older.txt"))
        assert new["com.apple.AEServer"] is old["com.apple.AEServer"] is True
        assert new["com.openssh.sshd"] is old["com.openssh.sshd"] is False


class TestMemory:
    def test_sysctl_of_a_whole_machine(self):
        values = parse.sysctl(recorded("sysctl/sysctl_hw_machdep_kern__MacBookPro18,1_M1Pro_macOS14.4.1.txt"))
        assert values["hw.memsize"] == "34359738368"
        assert values["hw.model"] == "MacBookPro18,1"
        assert values["machdep.cpu.brand_string"] == "Apple M1 Pro"
        assert parse.boot_time_s(values["kern.boottime"]) == 1711644864

    def test_one_unknown_name_leaves_no_gap(self):
        text = recorded("sysctl/COMPOSED_sysctl_one_liners.txt")
        values = parse.sysctl(text)
        assert values["kern.memorystatus_vm_pressure_level"] == "1"
        swap = parse.swap_usage(values["vm.swapusage"])
        assert swap == {"total": 2147483648, "used": int(1234.56 * (1 << 20))}
        assert "iogpu.nosuch" not in values

    def test_pages_are_not_4096_bytes(self):
        stat = parse.vm_stat(recorded("vm_stat/COMPOSED_vm_stat__32GB.txt"))
        assert stat["page_size_bytes"] == 16384
        assert stat["counters"]["Pages wired down"] == 462585
        assert stat["counters"]["Translation faults"] == 1234567890

    @pytest.mark.parametrize(
        ("name", "memory_bytes", "free_percent"),
        [
            ("memory_pressure__AppleSilicon_32GB", 34359738368, 66),
            ("memory_pressure_Q__128GB", 137438953472, 84),
        ],
    )
    def test_memory_pressure(self, name, memory_bytes, free_percent):
        assert parse.memory_pressure(recorded(f"memory_pressure/{name}.txt")) == {
            "memory_bytes": memory_bytes,
            "free_percent": free_percent,
        }


class TestMachine:
    def test_power_settings_with_reasons_and_blanks_in_keys(self):
        settings = parse.pmset(recorded("pmset/KNOWLEDGE_pmset_g__desktop.txt"))
        assert settings["sleep"] == 0
        assert settings["Sleep On Power Button"] == 1
        assert settings["hibernatefile"] == "/var/vm/sleepimage"
        assert "System-wide power settings:" not in settings

    @pytest.mark.parametrize(
        ("text", "state"),
        [
            ("FileVault is On.\n", "on"),
            ("FileVault is Off.\n", "off"),
            ("FileVault is On.\nEncryption in progress: Percent completed = 12\n", "busy"),
            ("FileVault is Off.\nDeferred enablement appears to be active for user 'a'.\n", "deferred"),
            ("FileVault is Off, but will be enabled after the next restart.\n", "deferred"),
            ("FileVault is On.\nDeferred enablement appears to be active for user 'a'.\n", "on"),
            ("", "unknown"),
        ],
    )
    def test_filevault(self, text, state):
        assert parse.filevault(text) == state

    def test_labels_of_the_tools_in_both_formats_newest_last(self):
        assert parse.clt_labels(recorded("softwareupdate/list__macOS26_clt_and_os.txt")) == [
            "Command Line Tools for Xcode 26.5-26.5"
        ]
        assert parse.clt_labels(recorded("softwareupdate/COMPOSED_list__older_label_format.txt"))[-1] == (
            "Command Line Tools for Xcode-16.4"
        )
        assert parse.clt_labels(recorded("softwareupdate/list__none.txt")) == []

    def test_a_beta_of_the_tools_comes_before_every_released_version(self):
        labels = ["Command Line Tools for Xcode-15.3", "Command Line Tools beta 2 for Xcode 27.1-27.1"]
        assert parse.clt_labels("".join("* Label: %s\n" % label for label in labels)) == labels[::-1]

    @pytest.mark.parametrize(
        ("target", "zone"),
        [
            ("/var/db/timezone/zoneinfo/Asia/Tokyo", "Asia/Tokyo"),
            ("/usr/share/zoneinfo.default/UTC", "UTC"),
            ("", None),
        ],
    )
    def test_time_zone(self, target, zone):
        assert parse.timezone(target) == zone

    def test_user_record(self):
        record = parse.dscl_read(recorded("users/COMPOSED_dscl_read_user.txt"))
        assert record["UniqueID"] == "450"
        assert record["RealName"] == "ds4 service"
        assert record["IsHidden"] == "1"
        assert parse.dscl_read("No such key: IsHidden\nUniqueID: 450\n") == {"UniqueID": "450"}

    def test_user_numbers(self):
        text = "_ds4           450\nnobody         -2\nroot           0\n"
        assert parse.dscl_list(text) == {"_ds4": 450, "nobody": -2, "root": 0}

    def test_listening_processes(self):
        text = "p893\ncds4-server\nf9\nn127.0.0.1:8000\np900\ncnode\nf3\nn*:8000\nf4\nn[::1]:8000\n"
        assert parse.listening(text) == [
            {"address": "127.0.0.1", "port": 8000, "pid": 893, "command": "ds4-server"},
            {"address": "*", "port": 8000, "pid": 900, "command": "node"},
            {"address": "::1", "port": 8000, "pid": 900, "command": "node"},
        ]

    def test_process_table(self):
        assert parse.processes("    1 /sbin/launchd\n  893 /opt/ds4/x --port 8000\n") == {
            1: "/sbin/launchd",
            893: "/opt/ds4/x --port 8000",
        }
