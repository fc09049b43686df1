# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Bring the files of an order to this Mac, detached: started by launchd, also after a reboot.

The folder holds order.json (what, and from which sources in which order), control and status.json
(weights.progress).
Who sends what is missing is ds4_route's matter; here a file is looked for, made room for, proven and placed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..mac.run import locked
from . import chunks, route, stamp, window
from . import peer as weights_peer
from .install import FULL, Installer, InstallError
from .progress import Aborted, State
from .proof import MISMATCH, judge, put_aside
from .transport import Source

if TYPE_CHECKING:
    from ..shapes import FetchOrder, Sender, Wanted

FOLDER = "/opt/ds4/var/stage"
#: Held by ds4_weights too: only one of them writes into the directory at a time.
LOCK = "/var/run/ds4-weights.lock"
LOCK_TIMEOUT_S = 5
#: How often the whole is checked against the catalogue.
MAX_PROOFS = 4
#: So long the volume may take to be mounted.
VOLUME_S = 900
#: The token of this order alone, brought by ds4_stage, also while the work goes on, and removed at its end.
TOKEN = "token.env"


class Fetch:
    """One order. `dial(peer)` gives the command line that reaches a peer's seed."""

    def __init__(
        self,
        folder: str,
        order: FetchOrder,
        state: State,
        dial: Callable[[Sender], str | list[str]] | None = None,
        wait: Callable[[float], object] = time.sleep,
        source: Callable[..., Source] | None = None,
    ) -> None:
        self.order = order
        self.state = state
        source = source or Source
        self.wait = wait
        self.lent = os.path.join(folder, TOKEN)
        self.installer = Installer(folder=order["dir"], uid=0, gid=0)
        self.installer.uid, self.installer.gid = order.get("uid", 0), order.get("gid", 0)
        self.route = route.Route(
            order,
            state,
            dial or (lambda peer: peer.get("socket") or weights_peer.ssh_argv(peer, folder)),
            lambda url, size_bytes, pace: source(url, size_bytes, self._token(), pace),
            wait,
        )

    def run(self) -> None:
        """All files of the order; raises InstallError, Aborted."""
        self._await_volume()
        for wanted in self.order["files"]:
            self.state.values["file"] = wanted["name"]
            self._bring(wanted)
            if self.order.get("staged_for"):
                stamp.mark(wanted["path"], self.order["staged_for"])
            self.state.settled_bytes += wanted["bytes"]
            self.state.part = None

    def _await_volume(self) -> None:
        """At boot this may begin before the volume is mounted, which would hide what is written there."""
        if not self.order.get("on_volume"):
            return
        for _second in range(VOLUME_S):
            if os.path.ismount(self.order["dir"]):
                self.state.values["reason"] = ""
                return
            if self.state.control()[0] == "abort":
                raise Aborted
            self.state.values["reason"] = "waits for the volume of %s" % self.order["dir"]
            self.wait(1)
        raise InstallError("the volume of %s is not mounted; nothing was fetched" % self.order["dir"])

    def _token(self) -> str:
        self.installer.token_file = self.lent if os.path.exists(self.lent) else self.order.get("token_file")
        return self.installer.token()

    def _bring(self, wanted: Wanted) -> None:
        look = self.installer.look(wanted)
        if look == "unproven":
            self.state.values["state"] = "proving"
            adopted, hashed = self.installer.adopt(wanted)
            self.state.values["hashed_bytes"] += hashed
            look = "proven" if adopted else "missing"
        if look == "missing":
            self.state.values["state"] = "proving"
            taken = self.installer.take_over(wanted)
            self.state.values["hashed_bytes"] += taken["hashed_bytes"] if taken else 0
            look = "proven" if taken else look
        if look == "proven":
            return
        revision = chunks.revision_of(wanted)
        part = chunks.ChunkedPart(
            wanted["path"],
            revision,
            wanted["bytes"],
            self.order["chunk_bytes"],
            wanted.get("pieces") or (),
        )
        self._room(wanted, part)
        try:
            self.state.part = part.open()
            self._prove(wanted, part)
        except OSError as error:
            if error.errno not in FULL:
                raise
            sentence = "%s is full: %d of %d bytes of %s are there and are kept"
            raise InstallError(
                sentence % (self.order["dir"], part.done_bytes, wanted["bytes"], wanted["name"])
            ) from None
        finally:
            part.close()

    def _prove(self, wanted: Wanted, part: chunks.ChunkedPart) -> None:
        wrong, resumed = "", bool(part.done)
        refused: set[str] = set()
        peers = {peer["name"] for peer in self.order["peers"]}
        for _trial in range(MAX_PROOFS):
            try:
                senders = self.route.complete(wanted, part, refused)
            except InstallError as error:
                if not wrong:
                    raise
                # What came before is the reason; that no other source has the file only follows from it.
                sentence = "%s is not what was asked for: %s; no other source has it (%s)"
                raise InstallError(sentence % (wanted["name"], wrong, error)) from None
            self.state.values["state"] = "proving"
            digest = part.whole.hexdigest()
            # The disk has the last word: what was hashed on its way in may have been damaged since.
            spoiled = part.spoiled()
            self.state.values["hashed_bytes"] += part.whole.reread_bytes + wanted["bytes"]
            if spoiled:
                wrong = "%d of its chunks came back from the disk with other bytes" % len(spoiled)
                part.drop(spoiled)
                continue
            wrong = judge(part.path, wanted, digest, part.whole.digest)
            if not wrong:
                part.place()
                self.installer.settle(wanted["path"], digest)
                return
            # Received as they were sent: whoever sent them has a wrong file, a peer sooner than a source.
            # What an earlier run left may be from anybody.
            refused |= set() if resumed else senders & peers or senders
            resumed, bad = False, part.whole.wrong_chunks()
            part.drop(bad or sorted(part.done))
        os.unlink(part.journal.path)
        aside = put_aside(part.path, wanted["path"])
        raise InstallError(
            "%s is not what was asked for: %s; kept as %s, it is not linked and not served"
            % (wanted["name"], wrong, aside)
        )

    def _room(self, wanted: Wanted, part: chunks.ChunkedPart) -> None:
        space = os.statvfs(self.order["dir"])
        there = os.stat(part.path).st_blocks * 512 if os.path.exists(part.path) else 0
        need, free = wanted["bytes"] - there, space.f_bavail * space.f_frsize
        aside = wanted["path"] + MISMATCH
        if need > free and os.path.exists(aside):
            os.unlink(aside)
            free += wanted["bytes"]
        if need > free:
            raise InstallError(
                "%s has %d bytes free, %s still needs %d: make room or raise the quota; nothing was fetched"
                % (self.order["dir"], free, wanted["name"], need)
            )


def main(arguments: Sequence[str] = ()) -> None:
    """`fetch [FOLDER]`: the order in the folder, to its end; nothing where there is none."""
    folder = arguments[0] if arguments else FOLDER
    try:
        with open(os.path.join(folder, "order.json")) as handle:
            order = json.load(handle)
    except FileNotFoundError:
        return
    with State(folder, order) as state:
        ended = {}
        try:
            # A time zone that this Mac does not know stops it here, not in the middle.
            window.is_open(order.get("window", ""), time.time())
            if state.control()[0] == "abort":
                raise Aborted
            with locked(LOCK, LOCK_TIMEOUT_S):
                Fetch(folder, order, state).run()
            ended = {"state": "done", "source": "", "reason": ""}
        except Aborted:
            ended = {"state": "aborted", "reason": "aborted by the operator"}
        except (InstallError, TimeoutError, ValueError) as error:
            ended = {"state": "failed", "error": str(error)}
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, TOKEN))
        state.values.update(ended, bytes_per_s=0)
