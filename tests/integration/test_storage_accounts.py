"""Volumes and accounts on a bootstrapped Mac: apply, verify, apply again, remove, verify."""

from __future__ import annotations

import hashlib
import json
import plistlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.lab, pytest.mark.slow]
HOST = "sel-02"
MOUNT = "/opt/ds4/kv"
VOLUME = {"name": "ds4-kv", "mount_point": MOUNT, "quota_bytes": 20_000_000_000}


@pytest.fixture(scope="module")
def mac(make_lab: Callable[..., Any]) -> Any:
    """One Mac, bootstrapped."""
    lab = make_lab(HOST)
    lab.ansible("playbooks/bootstrap.yml", HOST)
    return lab


@pytest.fixture
def apply(mac: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """apply(module, args, *options): the module's result, run as the role runs it."""

    def run(module: str, args: dict[str, Any], *options: str) -> dict[str, Any]:
        tasks = [
            {"name": "Run it", f"ds4.fleet.{module}": args, "register": "result", "ignore_errors": True},
            {
                "name": "Keep what it said",
                "ansible.builtin.copy": {
                    "content": "{{ result | to_json }}",
                    "dest": f"{tmp_path}/result.json",
                },
                "delegate_to": "localhost",
                "become": False,
                "check_mode": False,
                "vars": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                },
            },
        ]
        play = [{"name": "Test", "hosts": HOST, "gather_facts": False, "become": True, "tasks": tasks}]
        (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
        mac.ansible(str(tmp_path / "play.yml"), HOST, *options)
        result = json.loads((tmp_path / "result.json").read_text())
        assert "module_stderr" not in result, result
        return result

    return run


def volumes(mac: Any) -> dict[str, dict[str, Any]]:
    listed = plistlib.loads(mac.exec(HOST, "/usr/sbin/diskutil", "apfs", "list", "-plist").encode())
    return {volume["Name"]: volume for box in listed["Containers"] for volume in box["Volumes"]}


def info(mac: Any, what: str) -> dict[str, Any]:
    return plistlib.loads(mac.exec(HOST, "/usr/sbin/diskutil", "info", "-plist", what).encode())


def remove(mac: Any, wanted: Mapping[str, Any]) -> None:
    """There is no volume of that name any more, and nothing that names it or lies in its place."""
    listed = plistlib.loads(mac.exec(HOST, "/usr/sbin/diskutil", "apfs", "list", "-plist").encode())
    for volume in (volume for box in listed["Containers"] for volume in box["Volumes"]):
        if volume["Name"] == wanted["name"]:
            mac.exec(HOST, "/usr/sbin/diskutil", "apfs", "deleteVolume", volume["APFSVolumeUUID"])
    place = wanted["mount_point"]
    mac.exec(HOST, "/bin/sh", "-c", f"sed -i '' '\\| {place} |d' /etc/fstab; rm -rf {place}", check=False)


@pytest.fixture
def no_volume(mac: Any) -> None:
    """There is no volume of that name."""
    remove(mac, VOLUME)


@pytest.fixture
def volume(mac: Any, apply: Callable[..., dict[str, Any]], request: pytest.FixtureRequest) -> None:
    """The volume is there, at its place, with data."""
    printed = mac.exec(HOST, "/usr/sbin/diskutil", "list")
    if printed.count(VOLUME["name"]) != 1 or f"on {MOUNT} (" not in mac.exec(HOST, "/sbin/mount"):
        request.getfixturevalue("no_volume")
        apply("ds4_storage", {"volumes": [VOLUME]})
    mac.exec(HOST, "/bin/sh", "-c", f"echo precious >{MOUNT}/data")


@pytest.mark.usefixtures("no_volume")
class TestANewVolume:
    def test_a_rehearsal_says_it_would_create_and_does_not(self, mac, apply):
        result = apply("ds4_storage", {"volumes": [VOLUME]}, "--check")
        assert result["changed"]
        assert any("create volume ds4-kv" in step for step in result["steps"])
        assert "ds4-kv" not in volumes(mac)

    def test_it_is_made_with_its_quota_mounted_and_written_down(self, mac, apply):
        result = apply("ds4_storage", {"volumes": [VOLUME]})
        volume = volumes(mac)["ds4-kv"]
        assert volume["CapacityQuota"] == VOLUME["quota_bytes"]
        assert result["volumes"]["ds4-kv"]["uuid"] == volume["APFSVolumeUUID"]
        assert info(mac, volume["DeviceIdentifier"])["MountPoint"] == MOUNT
        assert f"UUID={volume['APFSVolumeUUID']} {MOUNT} apfs" in mac.exec(HOST, "/bin/cat", "/etc/fstab")
        assert mac.exec(HOST, "/bin/ls", "-ld", MOUNT).split()[2:4] == ["root", "wheel"]
        mac.exec(HOST, "/bin/ls", f"{MOUNT}/.metadata_never_index")

    def test_created_but_not_mounted_is_recovered(self, mac, apply):
        mac.lab.fault(HOST, "volume-not-mounted", True)
        try:
            apply("ds4_storage", {"volumes": [VOLUME]})
        finally:
            mac.lab.fault(HOST, "volume-not-mounted", False)
        assert info(mac, volumes(mac)["ds4-kv"]["DeviceIdentifier"])["MountPoint"] == MOUNT
        assert not apply("ds4_storage", {"volumes": [VOLUME]})["changed"]


@pytest.mark.usefixtures("volume")
class TestAVolume:
    def test_again_changes_nothing(self, apply):
        assert not apply("ds4_storage", {"volumes": [VOLUME]})["changed"]

    def test_a_volume_of_somebody_is_neither_mounted_nor_deleted(self, mac, apply):
        container = info(mac, "/")["APFSContainerReference"]
        mac.exec(HOST, "/usr/sbin/diskutil", "apfs", "addVolume", container, "APFS", "backup")
        backup = {"name": "backup", "mount_point": "/opt/ds4/models"}
        try:
            mac.exec(HOST, "/bin/dd", "if=/dev/zero", "of=/Volumes/backup/data", "bs=1048576", "count=40")
            result = apply("ds4_storage", {"volumes": [backup]})
            assert "is not ours" in result["msg"]
            result = apply("ds4_storage", {"volumes": [backup], "state": "absent", "safe_mode": False})
            assert "is not ours" in result["differences"][0]
            assert info(mac, volumes(mac)["backup"]["DeviceIdentifier"])["MountPoint"] == "/Volumes/backup"
        finally:
            mac.exec(HOST, "/usr/sbin/diskutil", "apfs", "deleteVolume", "/Volumes/backup")

    def test_another_name_is_not_mounted_over_the_volume_that_is_there(self, mac, apply):
        result = apply("ds4_storage", {"volumes": [{**VOLUME, "name": "renamed"}]})
        assert "put its name back" in result["msg"]
        assert "renamed" not in volumes(mac)

    def test_another_quota_is_reported_and_the_data_stays(self, mac, apply):
        result = apply("ds4_storage", {"volumes": [{**VOLUME, "quota_bytes": 30_000_000_000}]})
        assert not result["changed"]
        assert "cannot be changed" in result["differences"][0]
        assert mac.exec(HOST, "/bin/cat", f"{MOUNT}/data") == "precious\n"

    def test_it_comes_back_at_its_place_after_a_reboot(self, mac, apply):
        mac.lab.reboot(HOST)
        apply("ds4_storage", {"volumes": [VOLUME]})
        assert mac.exec(HOST, "/bin/cat", f"{MOUNT}/data") == "precious\n"

    def test_one_mounted_elsewhere_is_moved(self, mac, apply):
        uuid = volumes(mac)["ds4-kv"]["APFSVolumeUUID"]
        mac.exec(HOST, "/usr/sbin/diskutil", "unmount", uuid)
        mac.exec(HOST, "/bin/mkdir", "-p", "/Volumes/elsewhere")
        mac.exec(HOST, "/usr/sbin/diskutil", "mount", "-mountPoint", "/Volumes/elsewhere", uuid)
        assert apply("ds4_storage", {"volumes": [VOLUME]})["changed"]
        assert info(mac, uuid)["MountPoint"] == MOUNT

    def test_safe_mode_deletes_nothing(self, mac, apply):
        result = apply("ds4_storage", {"volumes": [VOLUME], "state": "absent"})
        assert result["failed"]
        assert "ds4_safe_mode" in result["msg"]
        assert mac.exec(HOST, "/bin/cat", f"{MOUNT}/data") == "precious\n"

    def test_one_in_use_is_not_deleted_and_the_holder_is_said(self, mac, apply):
        mac.lab.fault(HOST, "busy-volume", True)
        try:
            result = apply("ds4_storage", {"volumes": [VOLUME], "state": "absent", "safe_mode": False})
        finally:
            mac.lab.fault(HOST, "busy-volume", False)
        assert result["failed"]
        assert "is in use by process" in result["msg"]
        assert MOUNT in mac.exec(HOST, "/bin/cat", "/etc/fstab")

    def test_without_safe_mode_it_goes_and_leaves_nothing(self, mac, apply):
        gone = {"volumes": [VOLUME], "state": "absent", "safe_mode": False}
        assert apply("ds4_storage", gone)["changed"]
        assert "ds4-kv" not in volumes(mac)
        assert MOUNT not in mac.exec(HOST, "/bin/cat", "/etc/fstab", check=False)
        assert not apply("ds4_storage", gone)["changed"]

    def test_a_name_that_is_taken_twice_is_refused(self, mac, apply):
        container = info(mac, "/")["APFSContainerReference"]
        mac.exec(HOST, "/usr/sbin/diskutil", "apfs", "addVolume", container, "APFS", "ds4-kv", "-nomount")
        result = apply("ds4_storage", {"volumes": [VOLUME]})
        assert result["failed"]
        assert "2 volumes named ds4-kv" in result["msg"]


PLACE, ASIDE = "/opt/ds4/models", "/opt/ds4/models.before-volume"
WEIGHTS_VOLUME = {"name": "ds4-models", "mount_point": PLACE, "quota_bytes": 20_000_000_000}


@pytest.fixture
def by_hand(mac: Any) -> None:
    """What TestWhatLayInThePlace.DATA is, and a note, put where the volume for weights will be."""
    remove(mac, WEIGHTS_VOLUME)
    octal = "\\0".join(["GGUF\\003", *[""] * 19])
    words = f"rm -rf {ASIDE} && mkdir -p {PLACE} && cd {PLACE} && printf '{octal}' >w.gguf"
    words += " && yes 'weights weights weights weights' | tr '\\n' ' ' | head -c 32768 >>w.gguf"
    mac.exec(HOST, "/bin/sh", "-c", f"{words} && echo mine >notes.txt")


@pytest.fixture
def put_aside(mac: Any, by_hand: None, apply: Callable[..., dict[str, Any]]) -> None:
    """The same after the volume was mounted in its place."""
    apply("ds4_storage", {"volumes": [WEIGHTS_VOLUME]})


class TestWhatLayInThePlace:
    """Weights that were put there before the volume was made: case 12 of what the field sent."""

    DATA = b"GGUF\3\0\0\0" + bytes(16) + b"weights " * 4096

    def wanted(self, **more: Any) -> dict[str, Any]:
        file = {"name": "w.gguf", "path": f"{PLACE}/w.gguf", "bytes": len(self.DATA), "header": {}}
        digest = hashlib.sha256(self.DATA).hexdigest()
        return {
            "dir": PLACE,
            "on_volume": True,
            "files": [{**file, "sha256": digest, "urls": []}],
            **more,
        }

    @pytest.mark.usefixtures("by_hand")
    def test_a_rehearsal_says_that_it_would_be_put_aside(self, mac, apply):
        assert "put aside" in apply("ds4_storage", {"volumes": [WEIGHTS_VOLUME]}, "--check")["steps"][0]
        assert "w.gguf" in mac.exec(HOST, "/bin/ls", PLACE)

    @pytest.mark.usefixtures("by_hand")
    def test_it_is_not_hidden_under_the_volume(self, mac, apply):
        result = apply("ds4_storage", {"volumes": [WEIGHTS_VOLUME]})
        assert ASIDE in result["differences"][0]
        assert mac.exec(HOST, "/bin/ls", ASIDE).split() == ["notes.txt", "w.gguf"]
        assert info(mac, volumes(mac)["ds4-models"]["DeviceIdentifier"])["MountPoint"] == PLACE

    @pytest.mark.usefixtures("put_aside")
    def test_weights_of_the_plan_are_taken_over_and_the_rest_stays(self, mac, apply):
        (file,) = apply("ds4_weights", self.wanted())["files"]
        assert (file["action"], file["fetched_bytes"], file["source"]) == ("adopted", 0, ASIDE)
        assert mac.exec(HOST, "/bin/ls", ASIDE).split() == ["notes.txt"]
        assert "w.gguf.stamp" in mac.exec(HOST, "/bin/ls", PLACE)
        again = apply("ds4_storage", {"volumes": [WEIGHTS_VOLUME]})
        assert not again["changed"] and ASIDE in again["differences"][0]

    @pytest.mark.usefixtures("put_aside")
    def test_the_volume_goes_and_what_was_put_aside_stays(self, mac, apply):
        apply("ds4_storage", {"volumes": [WEIGHTS_VOLUME], "state": "absent", "safe_mode": False})
        assert mac.exec(HOST, "/bin/cat", f"{ASIDE}/notes.txt") == "mine\n"


ACCOUNT = {"groups": [{"name": "_ds4"}], "users": [{"name": "_ds4", "real_name": "ds4 service"}]}


def is_there(mac: Any, record: str) -> bool:
    return bool(mac.lab.exec(HOST, ["/usr/bin/dscl", ".", "-read", record]).returncode != 56)


@pytest.fixture
def nobody(mac: Any) -> None:
    """There is no account of that name."""
    # macOS deletes an account over ssh only with this right.
    mac.lab.fault(HOST, "full-disk-access", True)
    try:
        for record in ("/Users/_ds4", "/Groups/_ds4"):
            mac.exec(HOST, "/usr/bin/dscl", ".", "-delete", record, check=False)
    finally:
        mac.lab.fault(HOST, "full-disk-access", False)
    leave = ("-o", "edit", "-d", "_ds4", "-t", "user", "com.apple.access_ssh")
    mac.exec(HOST, "/usr/sbin/dseditgroup", *leave, check=False)


@pytest.fixture
def account(mac: Any, apply: Callable[..., dict[str, Any]]) -> None:
    """The account is there."""
    if not is_there(mac, "/Users/_ds4"):
        apply("ds4_user", ACCOUNT)


@pytest.mark.usefixtures("nobody")
class TestANewAccount:
    ARGS = ACCOUNT

    def test_a_rehearsal_makes_nobody(self, mac, apply):
        assert apply("ds4_user", self.ARGS, "--check")["changed"]
        assert not is_there(mac, "/Users/_ds4")

    def test_hidden_without_shell_and_password_and_with_a_free_id(self, mac, apply):
        mac.lab.fault(HOST, "dscl-hiccup", True)
        try:
            result = apply("ds4_user", self.ARGS)
        finally:
            mac.lab.fault(HOST, "dscl-hiccup", False)
        assert 400 <= result["users"]["_ds4"] <= 499
        record = mac.exec(HOST, "/usr/bin/dscl", ".", "-read", "/Users/_ds4")
        assert "UserShell: /usr/bin/false" in record
        assert "IsHidden: 1" in record
        assert mac.exec(HOST, "/usr/bin/id", "-un", str(result["users"]["_ds4"])).strip() == "_ds4"
        assert not apply("ds4_user", self.ARGS)["changed"]

    def test_where_remote_login_is_limited_to_a_group_the_user_joins_it(self, mac, apply):
        # The simulated Macs limit it, as a Mac does on which somebody once touched the setting.
        args = {**self.ARGS, "ssh_users": ["_ds4"]}
        member = ("/usr/sbin/dseditgroup", "-o", "checkmember", "-m", "_ds4", "com.apple.access_ssh")
        assert mac.lab.exec(HOST, list(member)).stdout.startswith("no ")
        assert apply("ds4_user", args)["changed"]
        assert mac.exec(HOST, *member).startswith("yes ")
        assert not apply("ds4_user", args)["changed"]


@pytest.mark.usefixtures("account")
class TestAnAccount:
    ARGS = ACCOUNT

    def test_an_account_of_a_person_is_neither_changed_nor_deleted(self, mac, apply):
        person = {"groups": [{"name": "admin"}], "users": [{"name": "admin", "real_name": "ds4 service"}]}
        record = ("/usr/bin/dscl", ".", "-read", "/Users/admin")
        group = ("/usr/bin/dscl", ".", "-read", "/Groups/admin")
        before = mac.exec(HOST, *record), mac.exec(HOST, *group)
        result = apply("ds4_user", person)
        assert result["failed"]
        assert "not ours" in result["msg"]
        mac.lab.fault(HOST, "full-disk-access", True)
        try:
            result = apply("ds4_user", {**person, "state": "absent"})
        finally:
            mac.lab.fault(HOST, "full-disk-access", False)
        assert not result["changed"]
        assert any("user admin" in said for said in result["foreign"])
        assert (mac.exec(HOST, *record), mac.exec(HOST, *group)) == before

    def test_a_group_with_somebody_in_it_is_nobodys_primary_group_by_us(self, apply):
        staff = {"groups": [{"name": "staff"}], "users": [{"name": "staff", "real_name": "ds4 service"}]}
        assert "group staff is there and is not ours" in apply("ds4_user", staff)["msg"]

    def test_another_id_is_refused(self, apply):
        result = apply("ds4_user", {"groups": [], "users": [{"name": "_ds4", "uid": 499}]})
        assert result["failed"]
        assert "macOS does not let it be changed" in result["msg"]

    def test_a_user_whom_macos_does_not_let_go_is_named_and_keeps_the_group(self, mac, apply):
        result = apply("ds4_user", {**self.ARGS, "state": "absent"})
        assert result["kept"] == ["/Users/_ds4"]
        assert not result["changed"]
        mac.exec(HOST, "/usr/bin/dscl", ".", "-read", "/Groups/_ds4")

    def test_with_full_disk_access_both_go(self, mac, apply):
        mac.lab.fault(HOST, "full-disk-access", True)
        try:
            assert apply("ds4_user", {**self.ARGS, "state": "absent"})["changed"]
        finally:
            mac.lab.fault(HOST, "full-disk-access", False)
        assert not is_there(mac, "/Users/_ds4") and not is_there(mac, "/Groups/_ds4")


class TestFiles:
    def test_what_the_tool_does_not_accept_is_not_installed(self, mac, apply):
        bad = [
            {"path": "/opt/good", "content": "x", "mode": "0644"},
            {
                "path": "/etc/sudoers.d/bad",
                "content": "this is no rule\n",
                "validate": "sudoers",
                "mode": "0440",
            },
        ]
        result = apply("ds4_files", {"files": bad})
        assert result["failed"]
        assert "/etc/sudoers.d/bad was not written" in result["msg"]
        assert mac.exec(HOST, "/bin/ls", "/etc/sudoers.d").split() == ["ds4-fleet"]
        assert mac.lab.exec(HOST, ["/bin/ls", "/opt/good"]).returncode != 0

    def test_a_batch_is_written_and_again_changes_nothing(self, mac, apply):
        files = [
            {"path": "/opt/t", "kind": "dir", "owner": "root", "group": "wheel", "mode": "0755"},
            {"path": "/opt/t/f", "content": "a\n", "owner": "root", "group": "wheel", "mode": "0640"},
            {"path": "/opt/t/l", "kind": "link", "target": "f"},
            {
                "path": "/etc/newsyslog.d/t.conf",
                "content": "# none\n",
                "validate": "newsyslog",
                "mode": "0644",
            },
        ]
        assert apply("ds4_files", {"files": files}, "--check")["changed_paths"] == [f["path"] for f in files]
        assert apply("ds4_files", {"files": files})["changed"]
        assert mac.exec(HOST, "/bin/cat", "/opt/t/l") == "a\n"
        assert not apply("ds4_files", {"files": files})["changed"]
        gone = [{"path": entry["path"], "kind": "absent"} for entry in reversed(files)]
        assert apply("ds4_files", {"files": gone})["changed"]
        assert mac.lab.exec(HOST, ["/bin/ls", "/opt/t"]).returncode != 0


class TestMemory:
    def test_the_limit_is_set_and_again_changes_nothing(self, mac, apply):
        assert apply("ds4_memory", {"wired_limit_mib": 57344})["changed"]
        assert mac.exec(HOST, "/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb").strip() == "57344"
        assert not apply("ds4_memory", {"wired_limit_mib": 57344})["changed"]

    def test_a_limit_that_macos_does_not_take_is_an_error(self, mac, apply):
        mac.lab.fault(HOST, "wired-limit-refused", True)
        try:
            assert "was not taken" in apply("ds4_memory", {"wired_limit_mib": 50000})["msg"]
        finally:
            mac.lab.fault(HOST, "wired-limit-refused", False)

    def test_more_than_the_mac_has_is_refused(self, apply):
        assert "does not fit" in apply("ds4_memory", {"wired_limit_mib": 65536})["msg"]


class TestPower:
    def test_bootstrap_left_nothing_to_set(self, apply):
        settings = {"sleep": 0, "autorestart": 1}
        assert not apply("ds4_power", {"settings": settings, "timezone": "Asia/Seoul"})["changed"]

    def test_a_zone_that_does_not_exist_is_an_error(self, apply):
        assert "Asia/Nowhere" in apply("ds4_power", {"timezone": "Asia/Nowhere"}).get("msg", "")
