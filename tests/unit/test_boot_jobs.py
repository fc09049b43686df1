"""The boot jobs for volumes and wired limit, run by real shells over disks that a stand-in keeps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ds4agent.mac import volumes
from ds4fleet import layout
from ds4fleet.components import scripts

SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
#: `diskutil`, `mount`, `plutil`, `stat` and `sysctl` over one file: disks.json.
TOOLS = """#!{python} -IS
import json, os, plistlib, sys
from pathlib import Path
here = Path({folder!r})
state = json.loads((here / "disks.json").read_text())
name, args = Path(sys.argv[0]).name, sys.argv[1:]
volumes = state["volumes"]

def end(text="", status=0):
    (here / "disks.json").write_text(json.dumps(state))
    if text != "":
        print(text)
    raise SystemExit(status)

def at(place):
    found = [device for device, point in state["table"] if point == place]
    return found[-1] if found else None

if name == "mount":
    print("/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)")
    print("map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)")
    for device, point in state["table"]:
        print(f"/dev/{{device}} on {{point}} (apfs, local, journaled, noatime)")
elif name == "stat":
    print(at(args[2]) or "1")
elif name == "plutil":
    value = plistlib.loads(sys.stdin.buffer.read()).get(args[1])
    value = str(value).lower() if isinstance(value, bool) else value
    end("No value at that key path" if value is None else value, int(value is None))
elif name == "sysctl":
    if args[0] == "-n":
        end(state["limit"])
    state["asked"] = state.get("asked", 0) + 1
    if state["asked"] <= state.get("refused", 0):
        end("sysctl: iogpu.wired_limit_mb: Operation not permitted", 1)
    state["limit"] = int(args[0].partition("=")[2])
    end("ok")
elif args[0] == "info":
    state["looks"] = state.get("looks", 0) + 1
    volume = volumes.get(args[-1].upper())
    if not volume or state["looks"] <= state.get("late", 0):
        plistlib.dump({{"Error": True, "ErrorMessage": "Could not find disk"}}, sys.stdout.buffer)
        end()
    point = next((point for device, point in state["table"] if device == volume), "")
    found = {{"DeviceIdentifier": volume, "MountPoint": point, "Locked": state.get("locked", False)}}
    sys.stdout.buffer.write(plistlib.dumps(found))
    end()
elif args[0] == "unmount":
    state["log"].append("unmount")
    if state.get("busy", 0) > 0:
        state["busy"] -= 1
        end("Volume x failed to unmount: dissented by PID 99 (mds)", 1)
    state["table"] = [entry for entry in state["table"] if entry[0] != volumes[args[-1].upper()]]
    end("unmounted")
elif args[0] == "mount":
    state["log"].append("mount")
    device = volumes[args[3].upper()]
    # As on macOS: one that is mounted elsewhere stays there, and the status says that all is well.
    if not state.get("stuck") and not any(entry[0] == device for entry in state["table"]):
        state["table"].append([device, args[2]])
    end("Volume x on disk mounted")
"""
MODELS, KV = "6CD8025B-76B4-4336-918B-04FEE498F9BD", "10DC02F1-71D9-4D8C-A666-899BFDFE2058"


class Boot:
    """A folder that stands for /opt/ds4 and /etc, with stand-ins in front of the machine's own tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = folder / "fake"
        self.fake.mkdir()
        for name in ("diskutil", "mount", "plutil", "stat", "sysctl"):
            (self.fake / name).write_text(TOOLS.format(python=sys.executable, folder=str(self.fake)))
            (self.fake / name).chmod(0o755)
        self.paths = layout.Paths(str(folder / "opt"))
        self.models, self.kv = Path(self.paths.models), Path(self.paths.kv)
        for path in (self.models, self.kv, Path(self.paths.boot)):
            path.mkdir(parents=True)
        self.fstab = folder / "fstab"
        self.lines = [
            volumes.fstab_line(uuid, str(place)) for uuid, place in ((MODELS, self.models), (KV, self.kv))
        ]
        self.listed = Path(self.paths.volumes)
        self.listed.write_text("\n".join(self.lines) + "\n")
        self.disks(volumes={MODELS: "disk3s7", KV: "disk3s8"}, table=[], log=[], limit=0)

    def disks(self, **changes: Any) -> dict[str, Any]:
        path = self.fake / "disks.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        found.update(changes)
        path.write_text(json.dumps(found))
        return found

    @property
    def table(self) -> dict[str, str]:
        return dict(self.disks()["table"])

    def run(self, job: str, shell: str = SHELLS[0], *arguments: str, try_s: int = 0) -> tuple[int, str]:
        """(exit status, state file) of one run of a boot job."""
        text = scripts.template(f"ds4-{job}.j2", paths=self.paths, job=job, try_s=try_s, hang_s=60)
        text = text.replace("PATH=/usr/bin:", f"PATH={self.fake}:/usr/bin:")
        script = self.folder / job
        script.write_text(text.replace("/etc/fstab\n", f"{self.fstab}\n", 1))
        argv = [shell, *(["--posix"] if shell == "bash" else []), str(script), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        return done.returncode, Path(self.paths.boot_state(job)).read_text()


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    return Boot(tmp_path)


class TestVolumes:
    @pytest.mark.parametrize("shell", SHELLS)
    @pytest.mark.parametrize(
        "fstab",
        [None, "", "# nothing\nUUID=OTHER /Volumes/other apfs rw\n", "UUID=OTHER {kv} apfs rw"],
        ids=["gone", "empty", "without ours", "with another volume at our place"],
    )
    def test_without_their_lines_in_fstab_all_are_mounted_and_the_lines_are_back(self, boot, shell, fstab):
        if fstab is not None:
            boot.fstab.write_text(fstab.format(kv=boot.kv))
        status, state = boot.run("mounts", shell)
        assert (status, boot.table) == (0, {"disk3s7": str(boot.models), "disk3s8": str(boot.kv)})
        assert "does again" in state and "reason=" not in state
        text = boot.fstab.read_text()
        kept = [line for line in (fstab or "").splitlines() if " {kv} " not in line]
        assert text.splitlines() == [*kept, *boot.lines]
        assert boot.fstab.stat().st_mode & 0o777 == 0o644
        assert volumes.with_fstab_entry(text, MODELS, str(boot.models)) == text

    def test_where_all_is_in_place_nothing_is_touched(self, boot):
        boot.fstab.write_text("\n".join(boot.lines) + "\n")
        before = boot.fstab.stat().st_ino
        boot.disks(table=[["disk3s7", str(boot.models)], ["disk3s8", str(boot.kv)]])
        status, state = boot.run("mounts")
        assert (status, boot.disks()["log"], boot.fstab.stat().st_ino) == (0, [], before)
        assert [line.partition("=")[0] for line in state.splitlines()] == ["at"]

    @pytest.mark.parametrize("shell", SHELLS)
    def test_volumes_that_are_elsewhere_or_at_each_others_place_are_moved(self, boot, shell):
        for table in (
            [["disk3s7", "/Volumes/ds4 models"], ["disk3s8", str(boot.kv)]],
            [["disk3s7", str(boot.kv)], ["disk3s8", str(boot.models)]],
        ):
            boot.disks(table=table)
            status, state = boot.run("mounts", shell)
            assert (status, boot.table) == (0, {"disk3s7": str(boot.models), "disk3s8": str(boot.kv)})
            assert "had been mounted at" in state

    def test_one_that_is_held_is_tried_until_it_is_let_go(self, boot):
        boot.disks(table=[["disk3s7", "/Volumes/ds4-models"]], busy=1)
        status, state = boot.run("mounts")
        assert status == 75
        assert "stays at /Volumes/ds4-models" in state and "dissented by PID 99 (mds)" in state
        assert boot.table["disk3s7"] == "/Volumes/ds4-models"
        boot.disks(busy=1)
        assert boot.run("mounts", try_s=30)[0] == 0
        assert boot.table["disk3s7"] == str(boot.models)

    def test_one_whose_container_comes_up_late_is_waited_for(self, boot):
        boot.disks(late=100)
        status, state = boot.run("mounts")
        assert (status, boot.table) == (75, {})
        assert f"reason=the volume for {boot.models} is not there yet" in state
        boot.disks(late=6, looks=0)
        status, state = boot.run("mounts", try_s=30)
        assert (status, len(boot.table), "reason=" in state) == (0, 2, False)

    def test_one_that_is_locked_is_waited_for_and_how_to_unlock_it_is_said(self, boot):
        boot.disks(locked=True)
        status, state = boot.run("mounts")
        assert (status, boot.table) == (75, {})
        assert f"{boot.models} is locked: unlock it with `diskutil apfs unlockVolume {MODELS}" in state
        boot.disks(locked=False)
        assert (boot.run("mounts")[0], len(boot.table)) == (0, 2)

    def test_a_status_that_says_well_done_is_not_believed(self, boot):
        boot.disks(stuck=True)
        status, state = boot.run("mounts")
        assert (status, boot.table) == (75, {})
        assert f"the volume for {boot.models} did not come up there" in state

    def test_what_else_is_mounted_there_is_neither_covered_nor_taken_away(self, boot):
        boot.disks(table=[["disk9s9", str(boot.models)]])
        status, state = boot.run("mounts")
        assert (status, boot.table) == (75, {"disk9s9": str(boot.models), "disk3s8": str(boot.kv)})
        assert f"disk9s9 is mounted at {boot.models}" in state
        assert boot.disks()["log"] == ["mount"]

    def test_files_that_a_mount_hides_are_said(self, boot):
        (boot.models / "by-hand.gguf").write_text("weights")
        status, state = boot.run("mounts")
        assert status == 0
        assert f"note=files that lay in {boot.models} are hidden" in state and "by-hand.gguf" in state
        assert (boot.models / "by-hand.gguf").read_text() == "weights"

    def test_no_link_is_followed(self, boot, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        boot.kv.rmdir()
        boot.kv.symlink_to(elsewhere)
        boot.fstab.symlink_to(elsewhere / "fstab")
        status, state = boot.run("mounts")
        assert (status, boot.table) == (75, {"disk3s7": str(boot.models)})
        assert f"{boot.kv} is not a directory" in state
        assert "fstab was left as it is" in state and list(elsewhere.iterdir()) == []

    def test_a_place_that_is_missing_is_made(self, boot):
        boot.kv.rmdir()
        assert boot.run("mounts")[0] == 0
        assert boot.kv.is_dir()

    def test_without_its_list_it_says_what_to_do(self, boot):
        boot.listed.unlink()
        status, state = boot.run("mounts")
        assert status == 75
        assert "volumes.conf is missing: run site.yml" in state

    def test_what_is_said_stays_short_and_printable(self, boot):
        (boot.fake / "diskutil").write_text(
            (boot.fake / "diskutil").read_text().replace("dissented", "\\033[31m" + "x" * 5000)
        )
        boot.disks(table=[["disk3s7", "/Volumes/\x1b[2J"]], busy=9)
        state = boot.run("mounts")[1]
        assert len(state) < 4000 and state.isprintable() is False
        assert all(line.isprintable() for line in state.splitlines())

    def test_a_tool_that_hangs_ends_the_run_with_the_reason(self, boot):
        (boot.fake / "diskutil").write_text("#!/bin/sh\nsleep 300\n")
        text = scripts.template("ds4-mounts.j2", paths=boot.paths, job="mounts", try_s=0, hang_s=1)
        script = boot.folder / "mounts"
        script.write_text(text.replace("PATH=/usr/bin:", f"PATH={boot.fake}:/usr/bin:"))
        # In a session of its own, whose rest launchd would end.
        job = subprocess.Popen([SHELLS[0], str(script)], start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            assert job.wait(30) != 0
        finally:
            os.killpg(job.pid, signal.SIGKILL)
        assert "does not answer" in Path(boot.paths.boot_state("mounts")).read_text()


class TestWiredLimit:
    @pytest.mark.parametrize("shell", SHELLS)
    def test_it_is_raised_and_a_refusal_is_tried_again(self, boot, shell):
        boot.disks(refused=1)
        assert boot.run("wired", shell, "94208", try_s=30)[0] == 0
        assert boot.disks()["limit"] == 94208

    def test_a_refusal_that_stays_is_said_and_left_to_launchd(self, boot):
        boot.disks(refused=99)
        status, state = boot.run("wired", SHELLS[0], "94208")
        assert status == 75
        assert "limit of 94208 MiB, it is 0" in state and "Operation not permitted" in state

    def test_an_answer_that_is_no_number_is_no_success(self, boot):
        boot.disks(limit="unknown oid", refused=99)
        assert boot.run("wired", SHELLS[0], "94208")[0] == 75

    def test_a_larger_limit_is_left_alone(self, boot):
        boot.disks(limit=100000)
        assert boot.run("wired", SHELLS[0], "94208")[0] == 0
        assert boot.disks()["limit"] == 100000
