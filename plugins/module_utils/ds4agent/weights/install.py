# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Put proven weights in their place: adopt what is there, fetch what is not, keep wrong files aside."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..mac import aside as mac_aside
from ..mac.full_sync import flush_folder
from . import chunks, earlier_part
from . import stamp as weights_stamp
from .proof import judge, put_aside, sha256, uncached

if TYPE_CHECKING:
    from ..shapes import Placed, Wanted

#: Errors of a volume that is full: its own quota or the space that it shares.
FULL = (errno.ENOSPC, errno.EDQUOT)


class InstallError(Exception):
    """One sentence for the operator, and facts for the module's result."""

    def __init__(self, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.facts = facts


class NoRoom(InstallError):
    """The volume or its quota is full."""


class Installer:
    """Everything about one directory of weights."""

    def __init__(self, folder: str, uid: int, gid: int, chunk_bytes: int) -> None:
        self.folder = folder
        self.uid = uid
        self.gid = gid
        self.chunk_bytes = chunk_bytes

    # Looking.

    def look(self, wanted: Wanted) -> str:
        """proven (the stamp says so), unproven (a file of this name is there), or missing."""
        if weights_stamp.is_proven(wanted["path"], wanted["bytes"], wanted.get("sha256")):
            return "proven"
        return "unproven" if os.path.lexists(wanted["path"]) else "missing"

    def would(self, wanted: Wanted, state: str) -> Placed:
        """The result in check mode for a file that is not proven yet."""
        action = "would adopt" if state == "unproven" else "would fetch"
        return result(wanted, action, None)

    # Acting.

    def find(self, wanted: Wanted, state: str) -> tuple[Placed | None, int]:
        """(result or None, hashed bytes) of a file that need not be fetched: it is in place, or lay in the
        place of the volume."""
        if state == "proven":
            stamp, _valid = weights_stamp.read(wanted["path"])
            return result(wanted, "kept", stamp["sha256"] if stamp else None), 0
        if not os.path.isdir(self.folder):
            raise InstallError("weights directory %s does not exist: is its volume mounted?" % self.folder)
        found, hashed_bytes = self.adopt(wanted) if state == "unproven" else (None, 0)
        if found is None:
            found = self.take_over(wanted)
            hashed_bytes += found["hashed_bytes"] if found else 0
        return found, hashed_bytes

    def adopt(self, wanted: Wanted) -> tuple[Placed | None, int]:
        """(result or None, hashed bytes) for a file that is there but has no valid stamp."""
        path = wanted["path"]
        size = os.stat(path).st_size
        # A file of another size needs no hash to be known as wrong.
        digest = sha256(path) if size == wanted["bytes"] else ""
        if judge(path, wanted, digest):
            put_aside(path)
            return None, size if digest else 0
        self.settle(path, digest)
        return result(wanted, "adopted", digest), size

    def take_over(self, wanted: Wanted) -> Placed | None:
        """The result for a file that lay in the place of the volume before it was mounted; None without one.

        It is proven on its way into the volume, and deleted where it was once it is in place. A wrong one
        stays where it is.
        """
        folder, source = mac_aside.find(self.folder, wanted["name"], wanted["bytes"])
        if folder is None or source is None:
            return None
        part = chunks.ChunkedPart(wanted["path"], "before-volume", wanted["bytes"], self.chunk_bytes)
        earlier = earlier_part.path_of(wanted["path"], "before-volume")
        try:
            self.room(wanted, part.path, earlier)
            earlier_part.move(earlier, part.open(), lambda: None)
            return self._take_over(wanted, folder, source, part)
        except (NoRoom, OSError) as error:
            if isinstance(error, OSError) and error.errno not in FULL:
                sentence = "%s cannot be taken over from %s: %s"
                raise InstallError(sentence % (wanted["name"], folder, error.strerror)) from None
            sentence = (
                "%s has no room for %s, which lies in %s and needs %d bytes: make room, or move that file to"
                " another disk and name that in ds4_weights_sources"
            )
            raise NoRoom(sentence % (self.folder, wanted["name"], folder, wanted["bytes"])) from None
        finally:
            os.close(source)
            part.close()

    def _take_over(self, wanted: Wanted, folder: str, source: int, part: chunks.ChunkedPart) -> Placed | None:
        uncached(source)
        for index in part.missing():
            start, length = chunks.span(index, part.total_bytes, part.chunk_bytes)
            data = os.pread(source, length, start)
            if len(data) < length:
                break
            part.commit(index, data, hashlib.sha256(data).hexdigest())
        if part.missing() or judge(part.path, wanted, part.whole.hexdigest()):
            part.discard()
            return None
        digest = part.whole.hexdigest()
        part.place()
        self.settle(wanted["path"], digest)
        mac_aside.forget(folder, wanted["name"])
        return {**result(wanted, "adopted", digest), "hashed_bytes": wanted["bytes"], "source": folder}

    def link(self, link: Mapping[str, str], dry: bool = False) -> bool:
        """Make link.path point to link.target by one rename; returns whether that was a change."""
        path, target = link["path"], link["target"]
        if os.path.islink(path) and os.readlink(path) == target:
            return False
        if dry:
            return True
        if not os.path.isdir(os.path.dirname(path)):
            raise InstallError("%s cannot be linked: its release is not built" % path)
        temporary = path + ".new"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.replace(temporary, path)
        return True

    # Helpers.

    def room(self, wanted: Wanted, *begun: str) -> None:
        """Raises NoRoom where what is missing beside the parts `begun` does not fit."""
        space = os.statvfs(self.folder)
        need = wanted["bytes"] - sum(chunks.allocated(path) for path in begun)
        free = space.f_bavail * space.f_frsize
        if need > free:
            raise NoRoom(
                "%s has %d bytes free, %s still needs %d: make room or raise the quota; nothing was fetched"
                % (self.folder, free, wanted["name"], need)
            )

    def settle(self, path: str, digest: str) -> None:
        """Owner, mode and stamp of a file that was just proven."""
        os.chown(path, self.uid, self.gid)
        os.chmod(path, 0o644)
        weights_stamp.write(path, digest)
        flush_folder(os.path.dirname(path))

    def refuse(self, wanted: Wanted, path: str, wrong: str, source: str) -> InstallError:
        """Puts the wrong file `path` aside; returns what is to be raised."""
        aside = put_aside(path, wanted["path"])
        return InstallError(
            "%s from %s is not what was asked for: %s; kept as %s, it is not linked and not served"
            % (wanted["name"], source, wrong, aside),
            aside=aside,
        )


def result(wanted: Wanted, action: str, digest: str | None) -> Placed:
    """What came of a file of which nothing was fetched or hashed."""
    return {
        "path": wanted["path"],
        "sha256": digest,
        "action": action,
        "fetched_bytes": 0,
        "hashed_bytes": 0,
        "source": None,
    }
