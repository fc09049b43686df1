"""The observation is put together from recorded output; one probe that fails never hides the others."""

from pathlib import Path

import pytest

from ds4agent.mac import parse
from ds4agent.mac.run import Result
from ds4agent.observe import observation as shape

RECORDINGS = Path(__file__).parents[2] / "recordings"
WANTED = {"users": ["_ds4"], "groups": ["_ds4"], "labels": ["com.ds4fleet.server"], "port": 8000}


def said(name="", rc=0, out="", err=""):
    text = (RECORDINGS / name).read_text() if name else out
    return Result(["/usr/bin/it"], rc, text, err)


@pytest.fixture
def sections():
    info = "diskutil/RECONSTRUCTED_info_plist__disk3s7_AppleSilicon.plist"
    containers = said("diskutil/apfs_list_plist__iSC_container__AppleSilicon.plist").out
    added = (
        containers.replace("<string>disk1s1", "<string>disk1s7")
        .replace("<string>Preboot</string>", "")
        .replace("iSCPreboot", "ds4-models")
    )
    boot = said(info).out.replace("<string>disk3</string>", "<string>disk1</string>")
    return shape.Sections(
        {
            "apfs": said(out=added),
            "boot": said(out=boot),
            "volume disk1s7": said(info),
            "mount": said(out="/dev/disk1s7 on /opt/ds4/models (apfs, local, journaled, noowners)\n"),
            "user _ds4": said("users/COMPOSED_dscl_read_user.txt"),
            "group _ds4": said(rc=56, err="<dscl_cmd> DS Error: -14136 (eDSRecordNotFound)\n"),
            "job a": said("launchctl/COMPOSED_print_system_full_UserName_daemon.txt"),
            "job b": said(rc=113, err='Bad request.\nCould not find service "b" in domain for system\n'),
            "job c": said(rc=1, err="Operation not permitted\n"),
            "open": said(out="p893\nn/usr/lib/dyld\nn/opt/ds4/models/flash.gguf\n"),
        }
    )


class TestWhatIsAsked:
    def test_every_command_has_an_absolute_path(self):
        assert all(command[0].startswith("/") for command in shape.first(WANTED).values())

    def test_tools_are_not_asked_when_they_are_not_installed(self, sections):
        assert "sdk" not in shape.second(sections.results, False, None)
        assert "sdk" in shape.second(sections.results, True, None)

    def test_only_added_volumes_are_asked_about(self, sections):
        commands = shape.second(sections.results, False, 893)
        assert [name for name in commands if name.startswith("volume")] == ["volume disk1s7"]
        assert commands["open"][-4:] == ["-p", "893", "-F", "pn"]


class TestStorage:
    def test_mount_point_and_ownership_come_from_mount(self, sections):
        storage = sections.storage("")
        volume = storage["containers"][0]["volumes"][0]
        assert (volume["mount_point"], volume["owners_enabled"]) == ("/opt/ds4/models", False)
        assert volume["case_sensitive"] is False
        assert storage["containers"][0]["internal"] is True
        assert "physical_disk" not in storage["containers"][0]
        assert sections.errors == []

    def test_a_disk_that_answers_nonsense_is_one_error(self, sections):
        sections.results["apfs"] = said(out="")
        assert sections.read("apfs", sections.storage, "", default="none") == "none"
        assert [error["probe"] for error in sections.errors] == ["apfs"]


class TestUsersAndJobs:
    def test_a_record_that_is_missing_is_null_and_no_error(self, sections):
        assert sections.group("_ds4") is None
        assert sections.user("_ds4") == {
            "uid": 450,
            "gid": 450,
            "home": "/var/empty",
            "shell": "/usr/bin/false",
            "hidden": True,
            "real_name": "ds4 service",
        }

    def test_a_hiccup_of_the_directory_is_an_error_and_not_a_missing_user(self, sections):
        sections.results["user _ds4"] = said(rc=140, err="<dscl_cmd> DS Error: -14988 (eNotYetImplemented)\n")
        assert sections.read("user _ds4", sections.user, "_ds4") is None
        assert "-14988" in sections.errors[0]["message"]

    def test_jobs(self, sections):
        assert sections.job("a", {"a": True})["disabled"] is True
        assert sections.job("a", {})["pid"] == 893
        assert sections.job("b", {})["loaded"] is False
        assert sections.read("job c", sections.job, "c", {}) is None
        assert "Operation not permitted" in sections.errors[0]["message"]

    def test_the_weights_that_the_server_holds_open(self, sections):
        assert sections.open_weights() == "/opt/ds4/models/flash.gguf"


class TestMachine:
    def test_values_of_a_recorded_machine(self):
        text = said("sysctl/sysctl_hw_machdep_kern__MacBookPro18,1_M1Pro_macOS14.4.1.txt").out
        macos, hardware, memory, boot = shape.machine(parse.sysctl(text), "arm64")
        assert macos == {"version": "14.4.1", "build": "23E224", "kernel": "23.4.0", "arch": "arm64"}
        assert (hardware["memsize_bytes"], hardware["page_size_bytes"]) == (34359738368, 16384)
        assert memory["wired_limit_mib"] is None
        assert boot["boot_time_s"] == 1711644864

    def test_other_users_of_the_gpu_are_named_but_not_this_engine(self):
        processes = {
            1: "/sbin/launchd",
            5: "/opt/homebrew/bin/ollama serve",
            6: "/opt/ds4/engine/releases/54b36ed9ba42/ds4-server --ctx 100",
            7: "/usr/bin/python3 -m mlx_lm.server",
            8: "/Applications/LM Studio.app/Contents/MacOS/LM Studio",
        }
        assert shape.other_metal(processes, "/opt/ds4/engine") == ["LM Studio", "mlx_lm", "ollama"]

    def test_update_switches_that_nobody_set_are_unknown(self):
        assert shape.update_settings({"AutomaticDownload": False})["AutomaticDownload"] is False
        assert shape.update_settings({})["CriticalUpdateInstall"] is None
