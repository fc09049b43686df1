# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""The directory of weights as a whole: what is in it, who needs it, proven anew, and what could go; and the
directories of KV entries beside it, which belong to weights too.

Only names that this role or the engine's own script make are known here; anything else in the directory is
not ours and is neither read nor removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import saved_state
from ..mac import clear, safe
from ..switch.core import conf_values
from ..switch.state import MAX_KV_ENTRIES, Places, read_json, spare_kv, text_of
from . import stamp as weights_stamp
from .proof import MISMATCH, feed, judge

if TYPE_CHECKING:
    from ..shapes import Known

#: Read by `fab weights verify` while it looks on: {file, done_bytes, total_bytes, bytes_per_s, updated_at}.
STATUS = "/var/run/ds4-verify.json"
_NAME = re.compile(
    r"(?P<of>.+?\.gguf)"
    r"(?:(?P<part>\.part(?:\.[0-9a-z-]+(?:\.relay)?)?)(?P<journal>\.(?:journal|chunks)(?:\.new)?)?"
    r"|(?P<wrong>%s)|(?P<beside>\.(?:stamp|manifest)(?:\.new)?))?\Z" % re.escape(MISMATCH)
)
#: What sets a directory of KV entries apart among the names of files.
KV = "kv/"
#: setpriority(2) of macOS: this process with all its reads and writes gives way to everybody else's. From the
#: manual page, not yet measured on a Mac.
PRIO_DARWIN_PROCESS, PRIO_DARWIN_BG = 4, 0x1000


class Item:
    """One thing in the directory. kind: proven, unproven, part or wrong, or kv for a directory of KV entries;
    of: the weights' name that it belongs to; beside: paths of what has no meaning without it."""

    def __init__(self, name: str, of: str, kind: str) -> None:
        self.name = name
        self.of = of
        self.kind = kind
        self.bytes = 0
        self.beside: list[str] = []


def items(folder: str) -> list[Item]:
    """What is in the directory, by name; [] where there is none."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    found: dict[str, Item] = {}
    beside: list[tuple[str, str]] = []
    for name in names:
        match = _NAME.match(name)
        path = os.path.join(folder, name)
        if not match or not stat.S_ISREG(os.lstat(path).st_mode):
            continue
        of, part, wrong = match.group("of"), match.group("part"), match.group("wrong")
        if match.group("beside") or match.group("journal"):
            beside.append((of + (part or ""), path))
            continue
        kind = "part" if part else "wrong" if wrong else "unproven"
        if kind == "unproven" and weights_stamp.read(path)[1]:
            kind = "proven"
        found[name] = Item(name, of, kind)
        # A part has its final size from its first byte on; what it takes is what is allocated.
        found[name].bytes = os.stat(path).st_blocks * 512
    for owner, path in beside:
        if owner in found:
            found[owner].beside.append(path)
    return [found[name] for name in sorted(found)]


def kv_items(root: str) -> list[Item]:
    """The directories of KV entries, one for each identity that was served; their names begin with KV."""
    found = []
    for path in spare_kv(root + "/kv", ()):
        item = Item(_kv_name(path), _kv_name(path), "kv")
        # The service user's own: whatever is in there is no reason to say nothing about the weights.
        with contextlib.suppress(OSError), safe.folder(path) as here:
            entries = safe.files(here, MAX_KV_ENTRIES).values()
            item.bytes = sum(facts.st_blocks * 512 for facts in entries)
        found.append(item)
    return found


def _kv_name(path: str) -> str:
    return KV + os.path.basename(path)


def prefetched(root: str) -> dict[str, str]:
    """{name of a weights file: what it is prefetched for} of those that were brought ahead of their use."""
    found = {}
    for item in items(root + "/models"):
        stamp = (
            weights_stamp.read(os.path.join(root, "models", item.name))[0] if item.kind == "proven" else None
        )
        if stamp and stamp["prefetched_for"]:
            found[item.name] = "prefetched for " + stamp["prefetched_for"]
    return found


def users(root: str) -> dict[str, list[str]]:
    """{name of an item: [who needs it]} as this Mac itself can tell, but for what is only prefetched."""
    needed: dict[str, list[str]] = {}

    def need_name(name: str, why: str) -> None:
        reasons = needed.setdefault(name, [])
        if why not in reasons:
            reasons.append(why)

    def need(path: str, why: str) -> None:
        need_name(os.path.basename(path), why)

    def need_all(conf: str, why: str) -> None:
        single, many = conf_values(conf)
        for value in many["weights"]:
            need(value.partition(" ")[2], why)
        if single.get("kv_dir"):
            need_name(_kv_name(single["kv_dir"]), why)

    # The second one is what a server wrote that was started before the copy had moved.
    for running in ("var", "run"):
        need_all(safe.text("%s/%s/server.running.conf" % (root, running)), "served")
    need_all(safe.text(root + "/etc/server.conf"), "configured")
    for which in ("current", "previous"):
        with contextlib.suppress(OSError):
            need(os.readlink("%s/engine/%s/ds4flash.gguf" % (root, which)), which + " release")
    before = saved_state.load(Places(root).previous)
    for entry in before["files"] if before else ():
        if entry["path"].endswith("/server.conf") and entry["kind"] == "file":
            need_all(text_of(entry), "version before")
    order = read_json(root + "/var/prefetch/order.json") or {}
    for wanted in order.get("files", ()):
        need(wanted["name"], "being prefetched")
    return needed


def held_by(root: str) -> str:
    """The sentence about a rollout that has this Mac, "" when none has."""
    lock = read_json(Places(root).lock)
    if not lock:
        return ""
    return "rollout %s of %s has this Mac since %s" % (lock["run_id"], lock["owner"], lock["since"])


def needless(
    found: Collection[Item], needed: Mapping[str, Sequence[str]], known: Collection[str], wrong: bool
) -> list[tuple[Item, str]]:
    """[(item, why it can go)] of `found`. needed: {name: reasons}; known: names in the catalogue; wrong:
    whether copies that failed their proof may go too."""
    proven = {item.name for item in found if item.kind == "proven"}
    result = []
    for item in found:
        if item.kind == "wrong":
            if wrong:
                result.append((item, "failed its proof"))
        elif item.kind == "part":
            if item.of in proven and "being prefetched" not in needed.get(item.of, ()):
                result.append((item, "the whole is here"))
            elif item.of not in needed:
                result.append((item, "no transfer is waiting for it"))
        elif item.kind == "kv":
            if item.of not in needed:
                result.append((item, "no version that could be served again has these entries"))
        elif item.of not in needed and (item.kind == "proven" or item.of in known):
            result.append((item, "no version needs it"))
    return result


def remove(folder: str, item: Item) -> None:
    """Delete an item and what is beside it, the proof first: a file without one is never served."""
    if item.kind == "kv":
        clear.remove_tree(os.path.join(os.path.dirname(folder), item.name))
        return
    for path in item.beside:
        os.unlink(path)
    os.unlink(os.path.join(folder, item.name))


class Progress:
    """Says in STATUS, once a second, how much was read."""

    def __init__(self, total_bytes: int, path: str = STATUS, clock: Callable[[], float] = time.time) -> None:
        self.values: dict[str, Any] = {
            "file": "",
            "done_bytes": 0,
            "total_bytes": total_bytes,
            "bytes_per_s": 0,
        }
        self.path = path
        self.clock = clock
        self.began = self.said = clock()

    def read(self, count: int) -> None:
        self.values["done_bytes"] += count
        if self.clock() - self.said >= 1:
            self.say()

    def say(self) -> None:
        self.said = self.clock()
        elapsed_s = max(0.001, self.said - self.began)
        self.values.update(bytes_per_s=int(self.values["done_bytes"] / elapsed_s), updated_at=int(self.said))
        with contextlib.suppress(OSError):
            with open(self.path + ".new", "w") as handle:
                json.dump(self.values, handle)
            os.chmod(self.path + ".new", 0o644)
            os.replace(self.path + ".new", self.path)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def give_way() -> None:
    """Let a running engine go first, at the processor and at the disk."""
    with contextlib.suppress(OSError):
        os.nice(19)
        if sys.platform == "darwin":
            os.setpriority(PRIO_DARWIN_PROCESS, 0, PRIO_DARWIN_BG)


def expected(path: str, known: Mapping[str, Any]) -> Known | None:
    """{bytes, sha256, header} that the file should be: as the catalogue says, else as its stamp does."""
    wanted: Known | None = known.get(os.path.basename(path))
    if wanted and wanted.get("sha256"):
        return wanted
    stamp, _valid = weights_stamp.read(path)
    if stamp:
        return {"bytes": stamp["size_bytes"], "sha256": stamp["sha256"], "header": {}}
    return None


def prove(path: str, wanted: Known | None, progress: Progress, dry: bool = False) -> tuple[str, str]:
    """(state, why) of one file, read anew: `proven` renews its stamp, `wrong` withdraws it; the file itself
    is not touched. `changed`: somebody wrote to it meanwhile. `unknown`: nothing says what it should be."""
    if wanted is None:
        return "unknown", "neither catalogue nor stamp says what it should be"
    if dry:
        return "unread", ""
    before = os.stat(path)
    digest = hashlib.sha256()
    # A file of another size needs no hash to be known as wrong.
    if before.st_size == wanted["bytes"]:
        feed(digest, path, each=progress.read)
    why = judge(path, wanted, digest.hexdigest())
    after = os.stat(path)
    if _identity(before) != _identity(after):
        return "changed", "it was written to while it was read"
    if why:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(weights_stamp.stamp_path(path))
        return "wrong", why
    weights_stamp.write(path, digest.hexdigest())
    return "proven", ""


def _identity(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
