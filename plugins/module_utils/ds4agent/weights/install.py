# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Put proven weights in their place: adopt what is there, fetch what is not, keep wrong files aside."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..mac import aside as mac_aside
from ..mac import output
from . import pieces
from . import stamp as weights_stamp
from . import token as weights_token
from .origin import SourceError
from .part import Part, flush_folder
from .proof import MISMATCH, judge, put_aside, sha256
from .transport import BRIEF_PATIENCE_S, PATIENCE_S, Busy, Pace, Source

if TYPE_CHECKING:
    from ..shapes import Placed, Wanted

#: Where the progress of a running fetch can be read: {name, done_bytes, total_bytes, bytes_per_s, source}.
STATUS = ".ds4-fetch.json"
#: Errors of a volume that is full: its own quota or the space that it shares.
FULL = (errno.ENOSPC, errno.EDQUOT)
#: So long a volume may take to be mounted.
VOLUME_S = 120
TAIL_LINES, TAIL_BYTES = 10, 65536
ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C", "LC_ALL": "C", "HOME": "/var/root"}


class InstallError(Exception):
    """One sentence for the operator, and facts for the module's result."""

    def __init__(self, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.facts = facts


class NoRoom(InstallError):
    """The volume or its quota is full."""


class Installer:
    """Everything about one directory of weights."""

    def __init__(
        self,
        folder: str,
        uid: int,
        gid: int,
        method: str = "direct",
        target_name: str | None = None,
        release_dir: str | None = None,
        rate_limit_mbps: float = 0,
        token_file: str | None = None,
        timeout_s: float = 86400,
        on_volume: bool = False,
    ) -> None:
        self.folder = folder
        self.uid = uid
        self.gid = gid
        self.method = method
        self.target_name = target_name
        self.release_dir = release_dir
        self.pace = Pace(rate_limit_mbps * 1000000)
        self.token_file = token_file
        self.timeout_s = timeout_s
        self.on_volume = on_volume
        self.status_path = os.path.join(folder, STATUS)
        self._progress: dict[str, Any] = {}

    def await_volume(self, wait: Callable[[float], object] = time.sleep) -> None:
        """Soon after boot the volume may be on its way, and would hide what is put in its place meanwhile.

        InstallError when it does not come.
        """
        for _second in range(VOLUME_S):
            if not self.on_volume or os.path.ismount(self.folder):
                return
            wait(1)
        raise InstallError(
            "the volume of %s is not mounted; nothing is looked for or put in its place" % self.folder
        )

    # Looking.

    def look(self, wanted: Wanted) -> str:
        """proven (the stamp says so), unproven (a file of this name is there), or missing."""
        if weights_stamp.is_proven(wanted["path"], wanted["bytes"], wanted.get("sha256")):
            return "proven"
        return "unproven" if os.path.lexists(wanted["path"]) else "missing"

    def would(self, wanted: Wanted, state: str) -> Placed:
        """The result in check mode for a file that is not proven yet."""
        action = "would adopt" if state == "unproven" else "would fetch"
        return _result(wanted, action, None)

    # Acting.

    def bring(self, wanted: Wanted, state: str) -> Placed:
        """Make sure that the file is in place and proven; returns its result."""
        if state == "proven":
            stamp, _valid = weights_stamp.read(wanted["path"])
            return _result(wanted, "kept", stamp["sha256"] if stamp else None)
        if not os.path.isdir(self.folder):
            raise InstallError("weights directory %s does not exist: is its volume mounted?" % self.folder)
        hashed_bytes = 0
        if state == "unproven":
            adopted, hashed_bytes = self.adopt(wanted)
            if adopted:
                return {**adopted, "hashed_bytes": hashed_bytes}
        taken = self.take_over(wanted)
        if taken:
            return {**taken, "hashed_bytes": taken["hashed_bytes"] + hashed_bytes}
        fetch = self._run_upstream if self.method == "upstream" else self._fetch
        result = fetch(wanted)
        return {**result, "hashed_bytes": result["hashed_bytes"] + hashed_bytes}

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
        return _result(wanted, "adopted", digest), size

    def take_over(self, wanted: Wanted) -> Placed | None:
        """The result for a file that lay in the place of the volume before it was mounted; None without one.

        It is proven on its way into the volume, and deleted where it was once it is in place. A wrong one
        stays where it is.
        """
        folder, source = mac_aside.find(self.folder, wanted["name"], wanted["bytes"])
        if folder is None or source is None:
            return None
        part = Part(wanted["path"], "before-volume", wanted["bytes"], on_progress=self._report)
        self._progress = {"name": wanted["name"], "source": folder, "began_at": time.time(), "began_bytes": 0}
        try:
            self._make_room(wanted, part)
            mac_aside.copy(source, part.open())
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
            self._clear_status()
        digest = part.digest.hexdigest()
        if part.done_bytes < wanted["bytes"] or judge(part.path, wanted, digest):
            part.discard()
            return None
        part.place(wanted["path"])
        self.settle(wanted["path"], digest)
        mac_aside.forget(folder, wanted["name"])
        return {**_result(wanted, "adopted", digest), "hashed_bytes": wanted["bytes"], "source": folder}

    def _fetch(self, wanted: Wanted) -> Placed:
        try:
            return self._fetch_once(wanted)
        except NoRoom:
            # A wrong copy that was kept to be looked at gives way to the right one.
            aside = wanted["path"] + MISMATCH
            if not os.path.exists(aside):
                raise
            os.unlink(aside)
            return self._fetch_once(wanted)

    def _fetch_once(self, wanted: Wanted) -> Placed:
        revision = (wanted.get("sha256") or "unpublished")[:12]
        published = wanted.get("pieces") or ()
        part = Part(wanted["path"], revision, wanted["bytes"], on_progress=self._report, pieces=published)
        self._make_room(wanted, part)
        fetched, url = 0, None
        refusals: dict[str, str] = {}
        try:
            part.open()
            start = part.done_bytes
            url = self._from_any(wanted, part, refusals)
            fetched = part.done_bytes - start
        except OSError as error:
            if error.errno not in FULL:
                raise InstallError("%s cannot be written: %s" % (part.path, error.strerror)) from None
            # On a full disk closing gives up the end of the part; what is said is what is left.
            part.close()
            raise NoRoom(
                "%s is full: %d of %d bytes of %s are there and are kept; make room or raise the quota, then"
                " run this again" % (self.folder, part.done_bytes, wanted["bytes"], wanted["name"])
            ) from None
        finally:
            part.close()
            self._clear_status()
        if part.done_bytes < wanted["bytes"]:
            raise InstallError(
                "%s could not be fetched, %d of %d bytes are kept for the next run: %s"
                % (
                    wanted["name"],
                    part.done_bytes,
                    wanted["bytes"],
                    "; ".join("%s: %s" % item for item in refusals.items()) or "there is no source",
                )
            )
        digest = part.digest.hexdigest()
        wrong = judge(part.path, wanted, digest, part.digest)
        if wrong:
            part.discard_journal()
            raise self._refuse(wanted, put_aside(part.path, wanted["path"]), wrong, url)
        part.place(wanted["path"])
        self.settle(wanted["path"], digest)
        return {
            **_result(wanted, "fetched", digest),
            "fetched_bytes": fetched,
            "hashed_bytes": part.reread_bytes,
            "source": url,
        }

    def _from_any(self, wanted: Wanted, part: Part, refusals: dict[str, str]) -> str | None:
        """Fetch the rest of a part; the URL that gave the end of it, None when no source did.

        refusals: {URL: why}, filled here. One that only wants to be asked later is waited for once the others
        have refused.
        """
        pushed = [url for url in wanted["urls"] if url.startswith("file:")]
        refusals.update(dict.fromkeys(pushed, "it is pushed by `fab stage`"))
        urls = [url for url in wanted["urls"] if url not in pushed]
        patience_s = PATIENCE_S if len(urls) == 1 else BRIEF_PATIENCE_S
        while urls:
            busy = []
            for url in urls:
                self._progress = {"name": wanted["name"], "source": url}
                self._progress.update(began_at=time.time(), began_bytes=part.done_bytes)
                try:
                    source = pieces.reader(url, wanted["bytes"], wanted.get("pieces") or (), self._source)
                    source.patience_s = patience_s
                    source.fetch(part.done_bytes, part.write)
                    return url
                except SourceError as error:
                    refusals[url] = str(error)
                    if isinstance(error, Busy):
                        busy.append(url)
            urls, patience_s = busy if patience_s < PATIENCE_S else [], PATIENCE_S
        return None

    def _source(self, url: str, size_bytes: int) -> Source:
        return Source(url, size_bytes, self.token(), self.pace)

    def _run_upstream(self, wanted: Wanted) -> Placed:
        """The engine's own script; what it leaves is judged like any other file."""
        target_name, release_dir = self.target_name or "", self.release_dir or ""
        script = os.path.join(release_dir, "download_model.sh")
        argv = ["/bin/sh", script, target_name]
        done = output.run(
            argv,
            self.timeout_s,
            max_bytes=TAIL_BYTES,
            only_end=True,
            cwd=release_dir,
            env=dict(ENVIRONMENT, DS4_GGUF_DIR=self.folder),
            stderr=subprocess.STDOUT,
        )
        if done.cut:
            raise InstallError("download_model.sh took longer than %d s; it resumes" % self.timeout_s)
        tail = " / ".join(done.stdout.strip().splitlines()[-TAIL_LINES:])
        path = wanted["path"]
        if not os.path.isfile(path):
            raise InstallError(
                "download_model.sh %s ended with status %d and without %s: %s"
                % (target_name, done.returncode, wanted["name"], tail)
            )
        digest = sha256(path)
        wrong = judge(path, wanted, digest)
        if wrong:
            raise self._refuse(wanted, put_aside(path), wrong, "download_model.sh " + target_name)
        self.settle(path, digest)
        return {
            **_result(wanted, "fetched", digest),
            "fetched_bytes": wanted["bytes"],
            "hashed_bytes": wanted["bytes"],
            "source": "download_model.sh " + target_name,
        }

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

    def _make_room(self, wanted: Wanted, part: Part) -> None:
        space = os.statvfs(self.folder)
        there = os.stat(part.path).st_size if os.path.exists(part.path) else 0
        need, free = wanted["bytes"] - there, space.f_bavail * space.f_frsize
        if need > free:
            raise NoRoom(
                "%s has %d bytes free, %s still needs %d: make room or raise the quota; nothing was fetched"
                % (self.folder, free, wanted["name"], need)
            )

    def token(self) -> str:
        """What the token file holds, as it is or as HF_TOKEN=…; "" without one.

        InstallError when others can read it.
        """
        if not self.token_file:
            return ""
        try:
            return weights_token.read(self.token_file)
        except ValueError as error:
            raise InstallError(str(error)) from None

    def settle(self, path: str, digest: str) -> None:
        """Owner, mode and stamp of a file that was just proven."""
        os.chown(path, self.uid, self.gid)
        os.chmod(path, 0o644)
        weights_stamp.write(path, digest)
        flush_folder(os.path.dirname(path))

    def _refuse(self, wanted: Wanted, aside: str, wrong: str, source: str | None) -> InstallError:
        return InstallError(
            "%s from %s is not what was asked for: %s; kept as %s, it is not linked and not served"
            % (wanted["name"], source, wrong, aside),
            aside=aside,
        )

    def _report(self, part: Part) -> None:
        if not self._progress:
            return
        elapsed_s = max(0.001, time.time() - self._progress["began_at"])
        status = {
            "name": self._progress["name"],
            "source": self._progress["source"],
            "done_bytes": part.done_bytes,
            "total_bytes": part.total_bytes,
            "bytes_per_s": int((part.done_bytes - self._progress["began_bytes"]) / elapsed_s),
            "updated_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with open(self.status_path + ".new", "w") as handle:
            json.dump(status, handle)
        os.replace(self.status_path + ".new", self.status_path)

    def _clear_status(self) -> None:
        for path in (self.status_path, self.status_path + ".new"):
            if os.path.exists(path):
                os.unlink(path)


def _result(wanted: Wanted, action: str, digest: str | None) -> Placed:
    return {
        "path": wanted["path"],
        "sha256": digest,
        "action": action,
        "fetched_bytes": 0,
        "hashed_bytes": 0,
        "source": None,
    }
