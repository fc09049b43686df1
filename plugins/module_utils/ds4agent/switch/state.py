# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""A version as files, links, wired limit and KV directory: saved, put in place, put back. And the journal.

Below /opt/ds4/var/switch (root 0755): order.json, answer.json, journal.json, lock.json, previous.json (the
STATE that a rollback goes to), drain.json (for the tunnels, while the Mac is drained) and
saved/<order id>.json (what the running switch replaces). The KV directories are the service user's own, so
what is done in them goes by mac.safe.
"""

from __future__ import annotations

import base64
import contextlib
import grp
import json
import os
import pwd
import re
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..mac import clear, full_sync, safe
from ..mac import run as mac_run
from ..saved_state import MAX_STATE_BYTES

if TYPE_CHECKING:
    from ..mac.run import Result
    from ..shapes import StateFile

#: Have a file, or the names in a folder, on the medium.
sync, sync_folder = full_sync.flush, full_sync.flush_folder
#: <40 hex>.kv.tmp.<pid>: what a killed engine leaves; no version removes them and no budget counts them.
ORPHAN = re.compile(r"\.kv\.tmp\.\d+$")
BEFORE = ".before-switch"
#: What is prepared, beside its place.
BESIDE = ".ds4-new"
#: More entries than a budget of KV has; beyond it a directory is somebody's mischief and gets no clone.
MAX_KV_ENTRIES = 100000


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a file, or None where there is none that can be read."""
    try:
        value = json.loads(safe.read(path, MAX_STATE_BYTES).decode("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: str, value: object) -> None:
    """Replace a file as a whole, for all to read; file and name are on the disk when this returns."""
    data = json.dumps(value, indent=1, sort_keys=True).encode("utf-8")
    safe.replace(path, data, 0o644, flush=sync)
    sync_folder(os.path.dirname(path))


def remove(path: str) -> None:
    """Remove a file if it is there."""
    safe.remove(path)


class Places:
    """Where a switch keeps what it knows."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.var = root + "/var/switch"
        self.order = self.var + "/order.json"
        self.answer = self.var + "/answer.json"
        self.journal = self.var + "/journal.json"
        self.lock = self.var + "/lock.json"
        self.previous = self.var + "/previous.json"
        self.running = self.var + "/running"
        self.drain = self.var + "/drain.json"
        #: Where sessions of tunnels look that began before the state had moved.
        self.old_drain = root + "/run/drain.json"
        self.kv = root + "/kv"

    def saved(self, order_id: str) -> str:
        """The file with the STATE that an order replaces."""
        return "%s/saved/%s.json" % (self.var, order_id)


def tell_drain(places: Places, value: object) -> None:
    """Have the tunnels say that this Mac is drained."""
    write_json(places.drain, value)
    with contextlib.suppress(OSError):
        # The service user's directory: what it does there with the message hurts only itself.
        write_json(places.old_drain, value)


def end_drain(places: Places) -> None:
    """The Mac takes work again."""
    remove(places.drain)
    with contextlib.suppress(OSError):
        remove(places.old_drain)


def forget_saved(places: Places, order_id: str) -> None:
    """Remove what earlier orders replaced; only that of the running one is ever gone back to."""
    folder, kept = os.path.split(places.saved(order_id))
    for name in os.listdir(folder):
        if name != kept:
            remove(os.path.join(folder, name))


def _name(find: Callable[[int], Sequence[Any]], number: int) -> str:
    try:
        return str(find(number)[0])
    except KeyError:
        return str(number)


def _number(find: Callable[[str], Any], name: str, field: str) -> int:
    return int(name) if str(name).isdigit() else getattr(find(name), field)


def look(path: str) -> StateFile:
    """The entry of a STATE for what is at `path` now; its content is base64, for it need not be text."""
    try:
        facts = os.lstat(path)
    except OSError:
        return {"path": path, "kind": "absent"}
    if stat.S_ISLNK(facts.st_mode):
        return {"path": path, "kind": "link", "target": os.readlink(path)}
    with open(path, "rb") as stream:
        content = base64.b64encode(stream.read()).decode("ascii")
    return {
        "path": path,
        "kind": "file",
        "base64": content,
        "content": "",
        "owner": _name(pwd.getpwuid, facts.st_uid),
        "group": _name(grp.getgrgid, facts.st_gid),
        "mode": "%04o" % stat.S_IMODE(facts.st_mode),
    }


def text_of(entry: StateFile) -> str:
    """The content of a file entry as text."""
    if "base64" in entry:
        return base64.b64decode(entry["base64"]).decode("utf-8", "replace")
    return entry["content"]


def _data(entry: StateFile) -> bytes:
    return base64.b64decode(entry["base64"]) if "base64" in entry else entry["content"].encode("utf-8")


def _access(entry: StateFile) -> tuple[int, int, int]:
    """(mode, uid, gid) of a file entry."""
    uid = _number(pwd.getpwnam, entry["owner"], "pw_uid")
    gid = _number(grp.getgrnam, entry["group"], "gr_gid")
    return int(entry.get("mode") or "0644", 8), uid, gid


def _is_so(entry: StateFile) -> bool:
    """Whether an entry is in its place already."""
    now = look(entry["path"])
    if now["kind"] != entry["kind"] or entry["kind"] == "absent":
        return now["kind"] == entry["kind"]
    if entry["kind"] == "link":
        return now["target"] == entry["target"]
    return _data(now) == _data(entry) and _access(now) == _access(entry)


def prepare(files: Iterable[StateFile]) -> list[StateFile]:
    """Write each entry that differs from what is there beside its place, onto the disk; returns those.

    What takes time is over then: `move` only renames. May be cut off and repeated; forget_prepared clears up.
    """
    differing = [entry for entry in files if not _is_so(entry)]
    for entry in differing:
        beside = entry["path"] + BESIDE
        remove(beside)
        if entry["kind"] == "link":
            os.symlink(entry["target"], beside)
        elif entry["kind"] == "file":
            mode, uid, gid = _access(entry)
            with open(beside, "wb") as stream:
                os.chmod(beside, 0o600)
                stream.write(_data(entry))
                os.chown(beside, uid, gid)
                os.chmod(beside, mode)
                stream.flush()
                sync(stream.fileno())
    return differing


def move(differing: Iterable[StateFile]) -> None:
    """Bring to its place what `prepare` wrote; each place has the old or the new at any moment."""
    for entry in differing:
        if entry["kind"] == "absent":
            remove(entry["path"])
        else:
            os.replace(entry["path"] + BESIDE, entry["path"])


def forget_prepared(files: Iterable[StateFile]) -> None:
    """Remove what was written beside its place and not moved."""
    for entry in files:
        remove(entry["path"] + BESIDE)


def orphans(folder: str) -> list[str]:
    """Paths of unfinished KV files in a directory that no server uses now."""
    try:
        with safe.folder(folder) as here:
            found = safe.files(here, MAX_KV_ENTRIES)
    except OSError:
        return []
    return sorted(os.path.join(folder, name) for name in found if ORPHAN.search(name))


def drop_orphans(folder: str) -> None:
    """Remove them; "" is no directory."""
    for path in orphans(folder) if folder else ():
        with contextlib.suppress(OSError):
            remove(path)


def owner_of(path: str) -> str:
    """Name of the owner."""
    return _name(pwd.getpwuid, os.lstat(path).st_uid)


def make_kv(folder: str, owner: str, group: str) -> None:
    """The KV directory of an identity, for the service user alone; the entries in it stay."""
    _own_kv(folder, owner, group)
    sync_folder(folder)
    sync_folder(os.path.dirname(folder))


def _own_kv(folder: str, owner: str, group: str) -> None:
    uid, gid = _number(pwd.getpwnam, owner, "pw_uid"), _number(grp.getgrnam, group, "gr_gid")
    safe.keep_folder(folder, 0o700, uid, gid, flush=None)


def keep_kv(folder: str, owner: str, group: str, run: Callable[..., Result] = mac_run.run) -> bool:
    """Clone a KV directory beside itself, so that a return finds it as it was. Clones take no space.

    Root's while it is copied, so that no other account puts a link or FIFO in the way; what is in it
    otherwise than plain files gets no clone. The clone gets its name only when it is whole. Returns False
    where there was nothing to keep.
    """
    if not os.path.isdir(folder):
        return False
    partial = folder + BEFORE + ".partial"
    clear.remove_tree(partial)
    clear.remove_tree(folder + BEFORE)
    safe.keep_folder(folder, 0o700, os.geteuid(), flush=None)
    try:
        if not _holds_only_files(folder) or not run("cp", "-cRp", folder, partial).ok:
            clear.remove_tree(partial)
            return False
        os.rename(partial, folder + BEFORE)
    finally:
        # No flush while there is no server: restore_kv repairs what a cut leaves.
        _own_kv(folder, owner, group)
    return True


def _holds_only_files(folder: str) -> bool:
    with safe.folder(folder) as here:
        found = safe.names(here, MAX_KV_ENTRIES)
        return len(found) < MAX_KV_ENTRIES and len(safe.files(here, MAX_KV_ENTRIES)) == len(found)


def restore_kv(folder: str, owner: str, group: str) -> None:
    """Put back what keep_kv kept, if it did; may be cut off and repeated at any point."""
    kept, spoilt = folder + BEFORE, folder + ".spoilt"
    if os.path.isdir(kept):
        if os.path.isdir(folder):
            clear.remove_tree(spoilt)
            os.rename(folder, spoilt)
        os.rename(kept, folder)
    if os.path.isdir(folder):
        # A clone, and what a cut left while it was cloned, are root's.
        make_kv(folder, owner, group)
    forget_kv(folder)


def forget_kv(folder: str) -> None:
    """Remove the clone and what else a switch can leave beside a KV directory."""
    for leftover in (BEFORE, BEFORE + ".partial", ".spoilt"):
        clear.remove_tree(folder + leftover)


def trim_kv(folder: str, most_bytes: int) -> None:
    """Remove entries of a KV directory that no server uses, longest unused first, until it holds no more."""
    try:
        with safe.folder(folder) as here:
            found = safe.files(here, MAX_KV_ENTRIES)
            # The engine writes the time of use into an entry, so the file's own is that too.
            entries = [(facts.st_mtime, facts.st_size, name) for name, facts in found.items()]
            total = sum(size for _used, size, _name in entries)
            for _used, size, name in sorted(entries):
                if total <= most_bytes:
                    return
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=here)
                total -= size
    except (FileNotFoundError, NotADirectoryError):
        return


def spare_kv(root: str, kept: Collection[str]) -> list[str]:
    """KV directories below `root` that belong to none of the identities that are kept."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    found = [os.path.join(root, name) for name in names if re.match(r"[a-z]+-[0-9a-f]{12}(-abi\d+)?$", name)]
    return [path for path in found if path not in kept and os.path.isdir(path) and not os.path.islink(path)]
