"""The backing store of the simulated APFS containers: what a writer in a Mac really hits.

One btrfs image per container (mixed mode, loop device with autoclear), one subvolume per APFS volume, a
quota group limit for `-quota`, one more for the space that reserves keep from the others. A writer gets
EDQUOT at the quota and ENOSPC when the container is full; clones are reflinks. Sizes in the image are real
sizes divided by `SCALE`.

Where the host has no btrfs or no loop devices, volumes are plain folders without limits.
All functions need root; those on mounted volumes run inside the Mac.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from maclab.faults.commands import CONTAINER_LATE, VOLUME_LOCKED
from maclab.faults.launchd import FSTAB_IGNORED, VOLUME_ELSEWHERE
from maclab.machine.model import Mac
from maclab.machine.units import SCALE
from maclab.machine.volumes import Container, Volume

MOUNTS = Path("/.lab/storage")
"""Inside a Mac: every container's file system, by container UUID."""

LATE_S, INDEXED_S = 15.0, 8.0
"""Seconds from the boot for which the faults container-late and volume-elsewhere act."""

# What an empty mixed-mode image keeps for itself, measured with btrfs-progs 6.2 on images of 50 MiB to 1 GiB:
# 6.97, 7.13, 7.53 and 8.07 MB.
_OVERHEAD_BYTES = 6_900_000
_OVERHEAD_SHARE = 0.00116
_MIN_IMAGE_BYTES = 24 << 20
_EMPTY_SUBVOLUME_BYTES = 4096
_LEAF_SLACK_BYTES = 16384
_SHARED_GROUP = "1/1"
_SYNC_LIMIT_S = 2.0

_MS = {"rdonly": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024}
_MS_REMOUNT, _MS_BIND, _MNT_DETACH = 32, 4096, 2


@dataclass(frozen=True)
class Holder:
    """A process that keeps a volume busy."""

    pid: int
    command: str
    path: str
    parent_pid: int
    parent_path: str


def _tool(name: str) -> str:
    for folder in ("/.lab/host/usr/bin", "/.lab/host/usr/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"):
        path = f"{folder}/{name}"
        if Path(path).exists():
            return path
    return ""


def _run(*words: str) -> str:
    done = subprocess.run([_tool(words[0]), *words[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(errno.EIO, f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def backend() -> str:
    """ "btrfs" where the host has its tools, else "folder"."""
    return "btrfs" if _tool("mkfs.btrfs") and _tool("btrfs") else "folder"


# ------------------------------------------------------------------------------------------------- containers


def image_bytes(container: Container) -> int:
    """Size of the image whose writable part is the container's capacity less its base load, scaled."""
    wanted = (container.size_bytes - container.base_load_bytes()) // SCALE
    size = max(_MIN_IMAGE_BYTES, int(wanted * (1 + _OVERHEAD_SHARE)) + _OVERHEAD_BYTES)
    return size // 4096 * 4096


def attach(mac: Mac, images: Path, mounts: Path = MOUNTS) -> None:
    """Mount every container that can hold volumes at `mounts`/<UUID>, making missing images and subvolumes.

    `images`: folder of the image files. To be called in the Mac's mount namespace; nothing else unmounts
    them, they go with the namespace.
    """
    for container in mac.containers:
        if not container.image:
            continue
        point = mounts / container.uuid
        point.mkdir(parents=True, exist_ok=True)
        if backend() == "btrfs":
            _attach_image(container, images / container.image, point)
        for volume in container.volumes:
            if volume.backing and not (point / volume.backing).is_dir():
                create(container, volume, 0, 0, 0o755, mounts)


def _attach_image(container: Container, image: Path, point: Path) -> None:
    fresh = not image.exists()
    if fresh:
        image.parent.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as handle:
            handle.truncate(image_bytes(container))
        _run("mkfs.btrfs", "-q", "-M", str(image))
    try:
        # No barriers: what a power cut of this machine would lose is a rehearsal. With no log btrfs writes
        # a checkpoint at fsync(2), as APFS is assumed to (C): what was changed before is there with it.
        options = "loop,noatime,nobarrier,notreelog"
        _run("mount", "-t", "btrfs", "-o", options, str(image), str(point))
    except OSError:
        if not fresh:
            raise
        # A kernel or container without btrfs or loop devices: plain folders, without limits.
        image.unlink()
        return
    _run("btrfs", "quota", "enable", str(point))
    if _SHARED_GROUP not in _run("btrfs", "qgroup", "show", str(point)):
        _run("btrfs", "qgroup", "create", _SHARED_GROUP, str(point))
    # Counted anew before the first volume is used: a power cut can leave numbers of another moment.
    _run("btrfs", "quota", "rescan", "-w", str(point))


def create(
    container: Container, volume: Volume, uid: int, gid: int, mode: int, mounts: Path = MOUNTS
) -> None:
    """Make the subvolume of `volume` (sets `backing` and `backing_id`) with the given owner and mode of
    its root.
    """
    point = mounts / container.uuid
    volume.backing = volume.backing or f"v-{volume.uuid}"
    path = point / volume.backing
    if _is_btrfs(point):
        group = [] if volume.reserve_bytes else ["-i", _SHARED_GROUP]
        _run("btrfs", "subvolume", "create", *group, str(path))
        volume.backing_id = int(_run("btrfs", "inspect-internal", "rootid", str(path)))
        if volume.quota_bytes:
            limit = volume.quota_bytes // SCALE + _EMPTY_SUBVOLUME_BYTES + _LEAF_SLACK_BYTES
            _run("btrfs", "qgroup", "limit", str(limit), str(path))
        _limit_shared(container, point)
    else:
        path.mkdir()
    for name in (".fseventsd", ".Spotlight-V100"):
        (path / name).mkdir(mode=0o700)
    os.chown(path, uid, gid)
    path.chmod(mode)
    if _is_btrfs(point):
        # A volume that diskutil has told of outlives a power cut.
        _run("btrfs", "filesystem", "sync", str(point))


def delete(container: Container, volume: Volume, mounts: Path = MOUNTS) -> None:
    """Remove the contents of an unmounted volume; the space is free when this returns, unless a
    process still has a file open there."""
    point = mounts / container.uuid
    path = point / volume.backing
    if _is_btrfs(point):
        _run("btrfs", "subvolume", "delete", "-c", str(path))
        # A process that a forced unmount left behind keeps its file, and the space, until it ends.
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [_tool("btrfs"), "subvolume", "sync", str(point)],
                capture_output=True,
                check=False,
                timeout=_SYNC_LIMIT_S,
            )
        subprocess.run(
            [_tool("btrfs"), "qgroup", "destroy", f"0/{volume.backing_id}", str(point)],
            capture_output=True,
            check=False,
        )
        _limit_shared(container, point)
    else:
        shutil.rmtree(path)


def fill(container: Container, *, full: bool, used: dict[str, int], mounts: Path = MOUNTS) -> None:
    """Take all free space of a container away (the fault disk-full), or give it back."""
    path = mounts / container.uuid / ".full"
    path.unlink(missing_ok=True)
    container.filler_bytes = 0
    if full:
        container.filler_bytes = container.free_bytes(used)
    if full and _is_btrfs(path.parent):
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            _allocate(descriptor, container.filler_bytes // SCALE)
        finally:
            os.close(descriptor)


def _allocate(descriptor: int, size_bytes: int) -> None:
    """Allocate as much of `size_bytes` as fits, in ever smaller steps."""
    done, step = 0, 1 << 26
    while done < size_bytes + _OVERHEAD_BYTES and step >= 4096:
        try:
            os.posix_fallocate(descriptor, done, step)
            done += step
        except OSError:
            step //= 4


def _limit_shared(container: Container, point: Path) -> None:
    if not _is_btrfs(point):
        return
    reserved = sum(v.reserve_bytes for v in container.volumes)
    room = max(0, container.size_bytes - container.base_load_bytes() - reserved) // SCALE
    _run("btrfs", "qgroup", "limit", str(room) if reserved else "none", _SHARED_GROUP, str(point))


def _is_btrfs(point: Path) -> bool:
    return backend() == "btrfs" and point.is_mount()


def usage(mac: Mac, mounts: Path = MOUNTS) -> dict[str, int]:
    """Real bytes (scaled up) that each volume's contents occupy, by volume UUID. Flushes what is not yet
    written.
    """
    found: dict[str, int] = {}
    for container in mac.containers:
        added = [v for v in container.volumes if v.backing]
        point = mounts / container.uuid
        if not added:
            continue
        if _is_btrfs(point):
            referenced: dict[str, int] = {}
            for line in _run("btrfs", "qgroup", "show", "--raw", "--sync", str(point)).splitlines():
                words = line.split()
                if len(words) >= 3 and words[0].startswith("0/"):
                    referenced[words[0]] = int(words[1])
            for volume in added:
                size = referenced.get(f"0/{volume.backing_id}", 0)
                found[volume.uuid] = max(0, size - _EMPTY_SUBVOLUME_BYTES) * SCALE
        else:
            for volume in added:
                files = (point / volume.backing).rglob("*")
                found[volume.uuid] = SCALE * sum(f.lstat().st_blocks * 512 for f in files if f.is_file())
    return found


# ------------------------------------------------------------------------------------------ mounting volumes


def mount(
    container: Container, volume: Volume, target: Path, options: list[str], mounts: Path = MOUNTS
) -> None:
    """Mount `volume` at the folder `target`; of `options`, nosuid, noexec, nodev, noatime and rdonly have
    effect.
    """
    source = mounts / container.uuid / volume.backing
    _mount(str(source), str(target), _MS_BIND)
    flags = sum(_MS.get(option, 0) for option in options)
    if flags:
        _mount("none", str(target), _MS_BIND | _MS_REMOUNT | flags)
    volume.mount_point = str(target)
    volume.mount_options = list(options)


def unmount(volume: Volume, *, force: bool = False) -> None:
    """Unmount `volume`. Raises OSError EBUSY while it is used, unless forced."""
    _libc_call("umount2", volume.mount_point.encode(), _MNT_DETACH if force else 0)
    folder = Path(volume.mount_point)
    if folder.parent == Path("/Volumes"):
        folder.rmdir()
    volume.mount_point, volume.mount_options = "", []


def _mount(source: str, target: str, flags: int) -> None:
    _libc_call("mount", source.encode(), target.encode(), None, flags, None)


def _libc_call(name: str, *arguments: bytes | int | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def default_mount_point(name: str) -> Path:
    """Where a volume of this name is mounted by default: /Volumes/name, or `/Volumes/name 1` when that is
    taken.
    """
    wanted = Path("/Volumes", name.replace("/", ":"))
    number, candidate = 0, wanted
    while candidate.exists():
        number += 1
        candidate = wanted.with_name(f"{wanted.name} {number}")
    return candidate


def holders(mount_point: str) -> list[Holder]:
    """Processes with an open file, working directory, root, program or mapping on the volume mounted
    there.
    """
    device = Path(mount_point).stat().st_dev
    # A plain folder lies on the root's own file system; then only the path tells.
    prefix = mount_point if device == Path("/").stat().st_dev else ""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _holds(entry, device, prefix):
            pid = int(entry.name)
            parent = _parent(pid)
            found.append(Holder(pid, _command(pid), _program(pid), parent, _program(parent)))
    return sorted(found, key=lambda h: h.pid)


def _holds(process: Path, device: int, prefix: str) -> bool:
    try:
        links = [process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()]
    except OSError:
        return False
    for link in links:
        try:
            if prefix and f"{link.readlink()}/".startswith(f"{prefix}/"):
                return True
            if not prefix and link.stat().st_dev == device:
                return True
        except OSError:
            continue
    return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def _program(pid: int) -> str:
    """The program's path as macOS would give it: the name it was started by where the file is the host's."""
    if pid == 1:
        return "/sbin/launchd"
    try:
        first = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        path = str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return "?"
    if path.startswith("/.lab/host/usr"):
        name = path.removeprefix("/.lab/host/usr")
        for candidate in (first, name, f"/usr{name}"):
            if candidate.startswith("/") and Path(candidate).exists():
                return candidate
        return first
    return path


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


# ---------------------------------------------------------------------------------------------------- fstab


@dataclass(frozen=True)
class FstabEntry:
    """One line of /etc/fstab that names a volume by UUID= or LABEL=."""

    uuid: str
    label: str
    mount_point: str
    options: tuple[str, ...]


def parse_fstab(text: str) -> list[FstabEntry]:
    """Entries that diskarbitrationd honours (UUID= and LABEL=, blanks written as \\040)."""
    entries = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) < 4:
            continue
        kind, _, value = words[0].partition("=")
        value = value.replace("\\040", " ")
        entries.append(
            FstabEntry(
                value.upper() if kind == "UUID" else "",
                value if kind == "LABEL" else "",
                words[1].replace("\\040", " "),
                tuple(words[3].split(",")),
            )
        )
    return [e for e in entries if e.uuid or e.label]


def fstab_entry(volume: Volume, text: str) -> FstabEntry | None:
    """The entry for `volume`; UUID= wins over LABEL=."""
    entries = parse_fstab(text)
    for entry in entries:
        if entry.uuid == volume.uuid:
            return entry
    return next((e for e in entries if e.label and e.label == volume.name), None)


def is_late(mac: Mac, volume: Volume) -> bool:
    """Whether the container of an added volume has not come up yet (fault container-late)."""
    if not CONTAINER_LATE.active(mac.faults) or not volume.backing:
        return False
    return time.time() - mac.boot.booted_at_s < LATE_S


def is_locked(mac: Mac, volume: Volume) -> bool:
    """Whether a volume cannot be mounted before it is unlocked; an added one by the fault volume-locked."""
    waits = bool(volume.backing) and not volume.mount_point
    return volume.locked or (waits and VOLUME_LOCKED.active(mac.faults))


def is_indexed(mac: Mac) -> bool:
    """Whether Spotlight still holds what it found below /Volumes (fault volume-elsewhere)."""
    return VOLUME_ELSEWHERE.active(mac.faults) and time.time() - mac.boot.booted_at_s < INDEXED_S


def mount_at_boot(mac: Mac, fstab: str, mounts: Path = MOUNTS) -> list[str]:
    """What diskarbitrationd does at boot: mount every added volume where fstab or its name says, unless
    `noauto`.

    Returns one line per volume that could not be mounted. A mount point of fstab that does not exist is
    such a case; folders below /Volumes are made.
    """
    problems = []
    for leftover in Path("/Volumes").iterdir():
        if leftover.is_dir() and not leftover.is_symlink() and not leftover.is_mount():
            with contextlib.suppress(OSError):
                leftover.rmdir()
    for container, volume in mac.all_volumes():
        if not volume.backing or volume.mount_point or is_locked(mac, volume) or is_late(mac, volume):
            continue
        entry = fstab_entry(volume, fstab)
        if entry and FSTAB_IGNORED.active(mac.faults):
            continue
        options = list(entry.options) if entry else []
        if "noauto" in options:
            continue
        if not mac.quirks.fstab_at_boot or VOLUME_ELSEWHERE.active(mac.faults):
            entry, options = None, []
        target = Path(entry.mount_point) if entry else default_mount_point(volume.name)
        if not entry:
            target.mkdir(parents=True, exist_ok=True)
        try:
            mount(container, volume, target, options, mounts)
        except OSError as problem:
            problems.append(f"{volume.name} at {target}: {problem.strerror}")
    return problems
