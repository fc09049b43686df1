"""The root folder: shaped like macOS, with only macOS's tools, projections of the directory, and a tool
chain on demand.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from maclab.commands import REGISTRY, paths
from maclab.machine import etc, tree
from maclab.machine.model import Mac
from tests.unit.maclab.fake import bare

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for owners")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree.build(tmp_path, bare(), Path(sys.executable), paths())
    return tmp_path


def test_etc_tmp_and_var_are_links_into_private(root: Path) -> None:
    for name in ("etc", "tmp", "var"):
        assert str((root / name).readlink()) == f"private/{name}"
    assert oct((root / "private/tmp").stat().st_mode)[-4:] == "1777"
    assert not (root / "etc/fstab").exists()


def test_only_macos_has_a_say_in_the_tool_folders(root: Path) -> None:
    there = {
        path.name for folder in ("bin", "sbin", "usr/bin", "usr/sbin") for path in (root / folder).iterdir()
    }
    assert not there & {
        "timeout",
        "flock",
        "nproc",
        "free",
        "ip",
        "ss",
        "lsblk",
        "systemctl",
        "apt",
        "dpkg",
        "setfacl",
    }
    assert {"sh", "bash", "zsh", "diskutil", "launchctl", "sysctl", "curl", "sudo", "tar"} <= there


def test_every_simulated_command_is_where_macos_has_it(root: Path) -> None:
    for info in REGISTRY.values():
        for path in info.paths:
            assert str((root / path[1:]).readlink()) == tree.SIM


def test_links_to_the_host_lead_to_files_that_exist(root: Path) -> None:
    dangling = []
    for folder in ("bin", "usr/bin", "usr/sbin"):
        for path in (root / folder).iterdir():
            target = str(path.readlink()) if path.is_symlink() else ""
            if target.startswith(tree.HOST) and not Path(target.removeprefix(tree.HOST)).exists():
                dangling.append(str(path))
    assert dangling == []


def test_where_the_usual_tools_are_rewritten_ones_the_mac_gets_those_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sudo-rs", "sudo.ws", "coreutils", "gnudate", "sort"):
        (tmp_path / name).write_text("")
    for name, target in (("sudo", "sudo-rs"), ("date", "coreutils")):
        (tmp_path / name).symlink_to(target)
    monkeypatch.setattr(tree, "_HOST_FOLDERS", (str(tmp_path),))
    found = {name: tree.host_tool(name) for name in ("sudo", "date", "sort", "none")}
    place = f"{tree.HOST}/usr{tmp_path}"
    assert found == {
        "sudo": f"{place}/sudo.ws",
        "date": f"{place}/gnudate",
        "sort": f"{place}/sort",
        "none": None,
    }


def test_what_the_hosts_pam_runs_to_compare_a_password_is_where_pam_looks_for_it(root: Path) -> None:
    named = {
        found.decode()
        for module in Path("/usr/lib").glob("*-linux-gnu/security/pam_unix.so")
        for found in re.findall(rb"/(?:usr/)?s?bin/unix_chkpwd", module.read_bytes())
    }
    assert named, "no pam_unix.so here"
    for path in named:
        target = str((root / path[1:]).readlink())
        assert os.access(target.removeprefix(tree.HOST), os.X_OK)


def test_people_in_the_directory_are_people_for_getpwnam(root: Path) -> None:
    mac = bare()
    mac.users["admin"].password_hash = "$6$x$y"
    mac.groups["_x"] = mac.groups["staff"]
    tree.project_directory(mac, root)
    passwd = (root / "etc/passwd").read_text()
    assert "admin:x:501:20:Administrator:/Users/admin:/bin/zsh\n" in passwd
    assert "nobody:x:4294967294:4294967294:" in passwd
    assert "admin:$6$x$y:" in (root / "etc/shadow").read_text()
    assert oct((root / "etc/shadow").stat().st_mode)[-3:] == "600"
    assert "admin:x:80:root,admin\n" in (root / "etc/group").read_text()


def test_a_record_without_ids_is_no_user_yet(root: Path) -> None:
    mac = bare()
    mac.users["half"] = type(mac.users["admin"])({"RecordName": ["half"]})
    tree.project_directory(mac, root)
    assert "half" not in (root / "etc/passwd").read_text()


def test_members_of_nested_groups_count() -> None:
    mac = bare()
    mac.groups["com.apple.access_ssh"].attributes = {
        "PrimaryGroupID": ["399"],
        "NestedGroups": [mac.groups["admin"].first("GeneratedUID")],
    }
    assert tree.group_members(mac, "com.apple.access_ssh") == ["root", "admin"]


def test_developer_tools_are_stubs_until_they_are_installed(root: Path) -> None:
    mac: Mac = bare()
    assert str((root / "usr/bin/git").readlink()) == tree.SIM
    mac.toolchain.installed = True
    tree.toolchain(mac, root)
    assert not (root / "usr/bin/git").is_symlink()
    clt = root / tree.CLT[1:]
    assert {"git", "make", "cc", "clang", "python3"} <= {p.name for p in (clt / "usr/bin").iterdir()}
    mac.toolchain.installed = False
    tree.toolchain(mac, root)
    assert str((root / "usr/bin/git").readlink()) == tree.SIM
    assert not clt.exists()


def test_building_again_keeps_what_was_changed(root: Path) -> None:
    (root / "etc/newsyslog.d/com.ds4fleet.conf").write_text("x")
    (root / "etc/sudoers").write_text("changed")
    tree.build(root, bare(), Path(sys.executable), paths())
    assert (root / "etc/newsyslog.d/com.ds4fleet.conf").read_text() == "x"
    assert (root / "etc/sudoers").read_text() == "changed"


def test_apples_drop_in_sorts_behind_ours_and_the_main_file_includes_both(root: Path) -> None:
    folder = root / "etc/ssh"
    assert "Include /etc/ssh/sshd_config.d/*" in (folder / "sshd_config").read_text()
    assert (
        sorted(["050-ds4.conf", *(p.name for p in (folder / "sshd_config.d").iterdir())])[0] == "050-ds4.conf"
    )


def test_the_hosts_file_keeps_apples_head(root: Path) -> None:
    tree.write_hosts(root, {"github.com": "198.18.0.2"})
    text = (root / "etc/hosts").read_text()
    assert text.startswith(etc.HOSTS.rstrip())
    assert "198.18.0.2\tgithub.com\n" in text


def test_only_the_given_authority_is_trusted(root: Path) -> None:
    tree.install_trust(root, "PEM\n")
    assert (root / "etc/ssl/cert.pem").read_text() == "PEM\n"
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text() == "PEM\n"
