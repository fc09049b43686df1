"""A booted Mac: volumes with limits that a writer hits, BSD's tools, real facts, and what a reboot
changes.
"""

from __future__ import annotations

import json
import os
import plistlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.inventory.fleet import ansible_command
from maclab import HostSpec, Lab
from maclab.commands import REGISTRY
from maclab.machine.tree import CLT_TOOLS
from tests.support.lab_shell import Shell

pytestmark = pytest.mark.lab

HOST = "mac-01"
HARDWARE = {
    "model": "Mac16,11",
    "chip": "Apple M4 Pro",
    "memory_gb": 64,
    "storage_gb": 256,
    "form": "Mac mini",
}
TRIGGER = "/tmp/.com.apple.dt.CommandLineTools.installondemand.in-progress"
ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class Mac(Shell):
    """One Mac, and what a test does to it."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, HOST)

    def info(self, what: str) -> dict[str, Any]:
        data: dict[str, Any] = plistlib.loads(self.sh(f"diskutil info -plist '{what}'").stdout.encode())
        return data

    def container(self) -> str:
        return str(self.info("/")["APFSContainerReference"])

    def volumes(self) -> list[dict[str, Any]]:
        text = self.ok(f"diskutil apfs list -plist {self.container()}")
        return list(plistlib.loads(text.encode())["Containers"][0]["Volumes"])

    def add(self, name: str, options: str = "") -> dict[str, Any]:
        out = self.ok(f"diskutil apfs addVolume {self.container()} APFS {name} {options}")
        return self.info(out.rpartition("Disk from APFS operation: ")[2].split()[0])

    def delete(self, name: str) -> None:
        self.sh(f"diskutil unmount force {name}")
        self.ok(f"diskutil apfs deleteVolume {name}")


@pytest.fixture(scope="module")
def mac() -> Iterator[Mac]:
    folder = Path(tempfile.mkdtemp(prefix="ds4-macos-"))
    lab = Lab(folder)
    try:
        lab.up(hosts=[HostSpec(HOST, "tokyo", HARDWARE)])
        lab.tie()
        yield Mac(lab)
    finally:
        lab.down()
        assert not folder.exists()


# ------------------------------------------------------------------------------------------------- volumes


def test_a_writer_hits_the_quota_and_the_numbers_follow(mac: Mac) -> None:
    volume = mac.add("quota", "-quota 64g")
    assert volume["MountPoint"] == "/Volumes/quota"
    done = mac.sh("dd if=/dev/zero of=/Volumes/quota/x bs=1000000 count=30")
    assert done.returncode != 0
    assert "exceeded" in done.stderr
    used = mac.info("quota")["CapacityInUse"]
    assert 0.99 * 64e9 < used < 1.01 * 64e9
    mac.ok("rm /Volumes/quota/x")
    assert mac.info("quota")["CapacityInUse"] < 1e8
    mac.delete("quota")


def test_a_full_container_stops_every_volume_and_a_reserve_keeps_room(mac: Mac) -> None:
    free = mac.info("/")["APFSContainerFree"]
    mac.add("kept", "-quota 20g -reserve 20g")
    assert mac.info("/")["APFSContainerFree"] <= free - 20_000_000_000
    mac.add("greedy")
    assert mac.sh("dd if=/dev/zero of=/Volumes/greedy/x bs=1000000 count=200").returncode != 0
    assert mac.info("/")["APFSContainerFree"] < 1e9
    mac.ok("dd if=/dev/zero of=/Volumes/kept/x bs=1000000 count=4")
    mac.delete("greedy")
    mac.delete("kept")


def test_a_reserve_that_does_not_fit_is_refused_before_anything_is_made(mac: Mac) -> None:
    before = len(mac.volumes())
    assert mac.sh(f"diskutil apfs addVolume {mac.container()} APFS big -reserve 900g").returncode == 1
    assert len(mac.volumes()) == before


def test_a_busy_volume_is_neither_unmounted_nor_deleted_unless_forced(mac: Mac) -> None:
    mac.add("busy")
    script = "sleep 60 < /Volumes/busy/.fseventsd & sleep 0.1; {0}; status=$?; kill $!; exit $status"
    unmount = mac.sh(script.format("diskutil unmount busy"))
    assert unmount.returncode == 1
    assert "failed to unmount: dissented by PID" in unmount.stderr
    delete = mac.sh(script.format("diskutil apfs deleteVolume busy"))
    assert delete.returncode == 1
    assert delete.stderr == "Error: -69888: Couldn't unmount disk\n"
    assert "couldn't be unmounted because it is in use by process" in delete.stdout
    forced = mac.sh(script.format("diskutil unmount force busy"))
    assert forced.returncode == 0
    mac.delete("busy")
    assert "busy" not in [v["Name"] for v in mac.volumes()]


def recorded(name: str) -> str:
    return (Path(__file__).resolve().parents[1] / "recordings" / "diskutil" / name).read_text()


def test_adding_and_deleting_print_what_was_recorded(mac: Mac) -> None:
    disk = mac.container()
    mac.ok("mkdir -p /nix")
    command = f"diskutil apfs addVolume {disk} 'Case-sensitive APFS' 'Nix Store' -mountpoint /nix"
    out = mac.ok(command)
    device = str(mac.info("/nix")["DeviceIdentifier"])
    wanted = recorded("apfs_addVolume__casesens_mountpoint__macOS26.6.2_tartVM.txt")
    assert out == re.sub(r"disk3\b", disk, wanted.replace("disk3s7", device))
    out = mac.ok(f"diskutil apfs addVolume {disk} APFS backup")
    second = str(mac.info("backup")["DeviceIdentifier"])
    wanted = recorded("COMPOSED_apfs_addVolume__default_mount.txt")
    assert out == re.sub(r"disk5\b", disk, wanted.replace("disk5s2", second))
    busy = mac.sh(
        f"sleep 60 < /nix/.fseventsd & sleep 0.1; diskutil apfs deleteVolume {device}; s=$?; kill $!; exit $s"
    )
    told = re.sub(r"process \d+ \(\S+\)", "process 18543 (zsh)", busy.stdout).replace(device, "disk3s7")
    text = recorded("COMPOSED_apfs_deleteVolume__busy__rc1.txt")
    assert busy.returncode == 1
    assert told in text
    assert busy.stderr in text
    mac.delete(device)
    mac.delete("backup")


def test_mounting_and_unmounting_print_what_was_recorded(mac: Mac) -> None:
    text = recorded("COMPOSED_mount_unmount_messages.txt")
    device = mac.add("store")["DeviceIdentifier"]
    for command, status in (
        (f"diskutil unmount {device}", 0),
        (f"diskutil unmount {device}", 0),
        (f"diskutil mount {device}", 0),
        (f"diskutil unmount force {device}", 0),
        ("diskutil mount store", 0),
        ("diskutil enableOwnership /Volumes/store", 0),
        ("diskutil unmount /Volumes/euclid", 1),
        ("diskutil info nosuch", 1),
    ):
        done = mac.sh(command)
        line = (done.stdout + done.stderr).strip().replace(device, "disk3s7")
        assert done.returncode == status
        assert line.replace("store", "Nix Store") in text
    # Held by a child of the shell, as the recorded volume was by a shell of sshd.
    busy = mac.sh(f"sleep 60 < /Volumes/store/.fseventsd & diskutil unmount {device}; s=$?; kill $!; exit $s")
    assert busy.returncode == 1
    said = re.sub(r"PID \d+ \(\S+\)", "PID N", busy.stdout + busy.stderr).splitlines()
    wanted = re.sub(r"PID \d+ \(\S+\)", "PID N", text)
    assert said[0].replace(f"store on {device}", "data on disk2s1") in wanted
    assert said[1:] == ["Dissenter parent PPID N"] and said[1] in wanted
    mac.delete("store")


def test_two_volumes_of_one_name_live_side_by_side(mac: Mac) -> None:
    first, second = mac.add("twin"), mac.add("twin")
    assert (first["MountPoint"], second["MountPoint"]) == ("/Volumes/twin", "/Volumes/twin 1")
    for volume in (first, second):
        mac.delete(volume["VolumeUUID"])


def test_the_root_of_a_new_volume_belongs_to_its_maker(mac: Mac) -> None:
    mac.add("roots")
    assert mac.ok("stat -f '%Su:%Sg %Lp' /Volumes/roots") == "root:wheel 775\n"
    mac.ok(f"sudo -u admin diskutil apfs addVolume {mac.container()} APFS mine")
    assert mac.ok("stat -f '%Su:%Sg %Lp' /Volumes/mine") == "admin:staff 775\n"
    assert mac.sh(f"sudo -u nobody diskutil apfs addVolume {mac.container()} APFS theirs").returncode == 1
    mac.delete("roots")
    mac.delete("mine")


def test_volumes_that_are_made_at_the_same_time_end_up_owned_by_root(mac: Mac) -> None:
    one = f"sudo -u admin diskutil apfs addVolume {mac.container()} APFS "
    mac.ok(f"({one} left & {one} right & wait)")
    for name in ("left", "right"):
        assert mac.ok(f"stat -f '%Su:%Sg %Lp' /Volumes/{name}") == "root:wheel 755\n"
        mac.delete(name)


def test_a_clone_costs_nothing_and_another_volume_gets_a_copy(mac: Mac) -> None:
    mac.add("clones")
    mac.add("others")
    mac.ok("dd if=/dev/urandom of=/Volumes/clones/a bs=1000000 count=4")
    before = mac.info("clones")["CapacityInUse"]
    mac.ok("cp -c /Volumes/clones/a /Volumes/clones/b && cmp /Volumes/clones/a /Volumes/clones/b")
    assert mac.info("clones")["CapacityInUse"] - before < 1e9
    mac.ok("cp -c /Volumes/clones/a /Volumes/others/a && cmp /Volumes/clones/a /Volumes/others/a")
    mac.delete("clones")
    mac.delete("others")


def test_a_reboot_renumbers_devices_honours_fstab_and_forgets_the_wired_limit(mac: Mac) -> None:
    kept, manual = mac.add("kept"), mac.add("manual")
    mac.ok("mkdir -p /opt/kept; sysctl iogpu.wired_limit_mb=50000; touch /Volumes/kept/file")
    mac.ok(
        f"printf 'UUID={kept['VolumeUUID']} /opt/kept apfs rw,nosuid,nobrowse\\n"
        f"UUID={manual['VolumeUUID']} /opt/manual apfs rw,noauto\\n' > /etc/fstab"
    )
    mac.lab.reboot(HOST)
    after = mac.info(kept["VolumeUUID"])
    assert after["MountPoint"] == "/opt/kept"
    assert after["DeviceIdentifier"] != kept["DeviceIdentifier"]
    assert mac.info(manual["VolumeUUID"])["MountPoint"] == ""
    assert mac.ok("sysctl -n iogpu.wired_limit_mb; ls /opt/kept") == "0\nfile\n"
    assert " on /opt/kept (apfs, local, nosuid, journaled, nobrowse)" in mac.ok("mount")
    mac.ok("rm /etc/fstab")
    mac.delete("kept")
    mac.delete("manual")


def test_a_power_cut_takes_what_was_not_fully_synced(mac: Mac) -> None:
    """fsync(2) leaves it in the drive's cache: only fcntl(2) with F_FULLFSYNC (51) counts."""
    mac.add("cut", "-quota 20g")
    write = "import fcntl, sys; f = open('/Volumes/cut/synced', 'wb', 0); f.write(bytes(307200))"
    pythons = "/.lab/clt-python/bin/python3 /.lab/host/usr/bin/python3"
    synced = f'$(ls {pythons} 2>/dev/null | head -n 1) -c "{write}; fcntl.fcntl(f, 51)"'
    for _ in range(2):
        mac.ok(f"{synced}; dd if=/dev/zero of=/Volumes/cut/flushed bs=1k count=300 conv=fsync")
        mac.ok("cd /Volumes/cut; echo more >> synced; touch empty; head -c 300000 synced > copy")
        mac.lab.power_cut(HOST)
        assert mac.ok("ls /Volumes/cut; wc -c < /Volumes/cut/synced | tr -d ' '") == "synced\n307200\n"
    mac.ok("head -c 300000 /Volumes/cut/synced > /Volumes/cut/copy")
    mac.lab.reboot(HOST)
    assert mac.ok("ls /Volumes/cut") == "copy\nsynced\n"
    assert mac.info("cut")["CapacityInUse"] > 4096 * 600_000
    mac.delete("cut")


# -------------------------------------------------------------------------------------------------- faults


def test_the_disk_is_full_while_the_fault_is_on(mac: Mac) -> None:
    mac.add("data")
    mac.lab.fault(HOST, "disk-full")
    assert mac.info("/")["APFSContainerFree"] == 0
    assert mac.sh("dd if=/dev/zero of=/Volumes/data/x bs=1000000 count=1").returncode != 0
    mac.lab.fault(HOST, "disk-full", on=False)
    mac.ok("dd if=/dev/zero of=/Volumes/data/x bs=1000000 count=1")
    mac.delete("data")


def test_a_volume_that_was_made_but_not_mounted_is_there(mac: Mac) -> None:
    mac.lab.fault(HOST, "volume-not-mounted")
    assert mac.sh(f"diskutil apfs addVolume {mac.container()} APFS half").returncode == 1
    mac.lab.fault(HOST, "volume-not-mounted", on=False)
    assert mac.info("half")["MountPoint"] == ""
    mac.delete("half")


def test_a_held_volume_yields_only_to_force(mac: Mac) -> None:
    mac.add("held")
    mac.lab.fault(HOST, "busy-volume")
    assert mac.sh("diskutil apfs deleteVolume held").returncode == 1
    mac.delete("held")
    mac.lab.fault(HOST, "busy-volume", on=False)


# --------------------------------------------------------------------------------------- tools and flavour


def install_tools(mac: Mac) -> None:
    label = "Command Line Tools for Xcode 26.5-26.5"
    mac.ok(f"touch {TRIGGER}; softwareupdate -i '{label}'; rm {TRIGGER}")


def test_the_tool_chain_appears_when_it_is_installed_and_goes_with_the_fault(mac: Mac) -> None:
    mac.lab.fault(HOST, "no-command-line-tools")
    assert mac.sh("git --version").returncode == 1
    assert mac.sh("xcode-select -p").returncode == 2
    install_tools(mac)
    mac.lab.fault(HOST, "no-command-line-tools", on=False)
    assert mac.ok("xcode-select -p") == "/Library/Developer/CommandLineTools\n"
    mac.ok("git --version && make --version && python3 -c 'import urllib.request, ssl, ctypes, subprocess'")
    assert mac.ok("python3 -c 'import sys; print(sys.platform)'") == "darwin\n"
    mac.ok(
        "printf 'int main(void){return 0;}' > /tmp/a.c && cc -framework Metal -o /tmp/a /tmp/a.c && /tmp/a"
    )
    mac.lab.fault(HOST, "no-command-line-tools")
    assert mac.sh("git --version").returncode == 1
    mac.lab.fault(HOST, "no-command-line-tools", on=False)
    mac.ok("git --version")


def test_every_simulated_command_refuses_an_option_that_it_does_not_know(mac: Mac) -> None:
    # wait4path takes it for a path; stubs without a tool chain have no options, nor has the lab's servant.
    without = {"wait4path", "lab-effects", "xcrun", *CLT_TOOLS}
    paths = [info.paths[0] for name, info in REGISTRY.items() if name not in without]
    lines = mac.ok(
        f"for command in {' '.join(paths)}; do\n"
        "    said=$($command --no-such-option 2>&1 </dev/null)\n"
        "    echo $command $? $(echo $said)\n"
        "done"
    ).splitlines()
    assert len(lines) == len(paths)
    told = r"\S+ ([1-9]\d*) .*(--no-such|option -|[Uu]sage)"
    assert [line for line in lines if not re.match(told, line)] == []


@pytest.mark.parametrize(
    ("script", "out"),
    [
        ("stat -f '%z %Su %Sg %Sp %Lp %HT' /etc/shells", None),
        ("printf 'ab\\n' > /tmp/s; sed -i '' s/a/b/ /tmp/s; cat /tmp/s", "bb\n"),
        ("printf 'ab\\n' > /tmp/s; sed -i .old s/a/b/ /tmp/s; cat /tmp/s.old", "ab\n"),
        ("date -r 0 -u +%Y-%m-%d", "1970-01-01\n"),
        ("date -j -u -f %Y-%m-%d 2026-11-22 +%s | cut -c1-6", "179530\n"),
        ("date -u -r 0 -v+1d +%d", "02\n"),
        ("printf x | md5 -q", None),
        (
            "printf abc > /tmp/h; shasum -a 256 /tmp/h",
            f"{ABC_SHA256}  /tmp/h\n",
        ),
        ("printf YWJj | base64 -D", "abc"),
        ("readlink -f /tmp", "/private/tmp\n"),
        ("basename $(mktemp -d -t ds4) | cut -c1-4", "ds4.\n"),
        ("printf 'a b' | xargs -n 1 echo", "a\nb\n"),
        ("printf '1\\n2\\n' > /tmp/l; tail -1 /tmp/l /tmp/l | grep -c 2", "2\n"),
        ("printf '1\\n2\\n' | tail -r", "2\n1\n"),
        ("printf '1\\n2\\n' | head -1", "1\n"),
        ("ln -sfh /etc /tmp/e; ln -sfh /usr /tmp/e; readlink /tmp/e", "/usr\n"),
        ("find /etc/ -maxdepth 1 -name hosts -print", "/etc/hosts\n"),
        ("ps -p 1 -o comm=", "/sbin/launchd\n"),
        ("uname -sm", "Darwin arm64\n"),
    ],
)
def test_bsd_options_work(mac: Mac, script: str, out: str | None) -> None:
    printed = mac.ok(script)
    assert out is None or printed == out


@pytest.mark.parametrize(
    "script",
    [
        "stat -c %s /etc/hosts",
        "stat --format=%s /etc/hosts",
        "sed --in-place s/a/b/ /tmp/s",
        "date -d tomorrow",
        "cp -T a b",
        "cp --reflink a b",
        "readlink -m /x",
        "mv -T a b",
        "ln -r a b",
        "grep -P x /etc/hosts",
        "find /etc -printf %p",
        "find -name x",
        "head --lines=1 /etc/hosts",
        "realpath -m /x/y",
        "df --output",
        "ps --no-headers",
        "xargs -d , echo",
        "du --max-depth=1",
        "mktemp --suffix=x",
        "command -v timeout",
        "command -v flock",
        "command -v nproc",
        "command -v free",
        "command -v ip",
        "command -v ss",
    ],
)
def test_what_only_linux_has_is_not_there(mac: Mac, script: str) -> None:
    assert mac.sh(script).returncode != 0


def test_lsof_tells_who_listens_and_who_holds_a_file(mac: Mac) -> None:
    out = mac.ok("lsof -nP -iTCP:22 -sTCP:LISTEN -F pcn")
    assert out.splitlines()[:2] == ["p1", "claunchd"]
    assert out.splitlines()[-1] == "n*:22"
    assert mac.sh("lsof -nP -iTCP:8123 -sTCP:LISTEN -F pcn").returncode == 1
    held = mac.ok("sleep 60 < /etc/shells & sleep 0.1; lsof -t /etc/shells; lsof -nP -p $! -F pn; kill $!")
    pid = held.splitlines()[0]
    assert f"p{pid}" in held
    assert "n/private/etc/shells" in held
    assert mac.sh("sudo -u admin lsof -nP -iTCP:22 -sTCP:LISTEN").returncode == 1


def test_the_simulation_does_not_show_in_the_process_list(mac: Mac) -> None:
    text = mac.ok("ps -axww -o args=; ps aux")
    assert "ds4fleet" not in text
    assert "/.lab" not in text


def test_the_operators_files_are_not_visible(mac: Mac) -> None:
    assert mac.sh(f"ls {Path.home()}").returncode != 0
    assert mac.sh(f"ls {Path(__file__).resolve().parents[2]}").returncode != 0


def test_ansibles_facts_are_those_of_a_mac(mac: Mac, tmp_path: Path) -> None:
    if mac.sh("xcode-select -p").returncode:
        install_tools(mac)
    key = Path(f"{mac.lab.key_path}.pub").read_text().strip()
    mac.ok(
        f"mkdir -p /Users/admin/.ssh && echo '{key}' > /Users/admin/.ssh/authorized_keys && "
        "chown -R admin:staff /Users/admin/.ssh && chmod 700 /Users/admin/.ssh"
    )
    words = mac.lab.ssh_command(HOST)
    settings = tmp_path / "ansible.cfg"
    settings.write_text(
        "[defaults]\ninterpreter_python=/Library/Developer/CommandLineTools/usr/bin/python3\n"
    )
    options = f"-o UserKnownHostsFile={mac.lab.known_hosts_path} -o HostKeyAlias={HOST}"
    done = subprocess.run(
        [
            *ansible_command("ansible"),
            "all",
            "-i",
            f"{words[-1].partition('@')[2]},",
            "-u",
            "admin",
            "-m",
            "setup",
            "--private-key",
            str(mac.lab.key_path),
            f"--ssh-common-args={options}",
            "-t",
            str(tmp_path / "facts"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(settings)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(next((tmp_path / "facts").iterdir()).read_text())["ansible_facts"]
    wanted = {
        "ansible_system": "Darwin",
        "ansible_os_family": "Darwin",
        "ansible_distribution": "MacOSX",
        "ansible_distribution_version": "26.5.1",
        "ansible_distribution_major_version": "26",
        "ansible_distribution_release": "25.5.0",
        "ansible_kernel": "25.5.0",
        "ansible_architecture": "arm64",
        "ansible_machine": "arm64",
        "ansible_model": "Mac16,11",
        "ansible_product_name": "Mac16,11",
        "ansible_processor": "Apple M4 Pro",
        "ansible_processor_cores": "14",
        "ansible_processor_vcpus": "14",
        "ansible_memtotal_mb": 65536,
        "ansible_osversion": "25F80",
        "ansible_osrevision": "199506",
        "ansible_service_mgr": "launchd",
        "ansible_user_id": "admin",
    }
    assert {key: facts.get(key) for key in wanted} == wanted
    assert not {"ansible_mounts", "ansible_devices", "ansible_swaptotal_mb", "ansible_lvm"} & set(facts)
    assert facts["ansible_env"]["PATH"] == "/usr/bin:/bin:/usr/sbin:/sbin"
