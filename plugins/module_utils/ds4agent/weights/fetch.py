# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Bring the files of an order to this Mac: what moves bytes of weights, and the only thing that does.

ds4_weights waits for it, with an order that names no peers. The transfer from Mac to Mac is detached: started
by launchd, also after a reboot, with a folder that holds order.json (what, and from which sources in which
order), control and status.json (weights.progress). Which source sends what is missing is weights.route's
matter; here a file is looked for, made room for, proven and placed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import naming
from ..mac import io_policy, launchd
from ..mac.run import locked
from . import chunks, earlier_part, route, stamp, window
from . import peer as weights_peer
from . import token as weights_token
from .install import FULL, Installer, InstallError, NoRoom, result
from .progress import Aborted, State
from .proof import MISMATCH, judge
from .transport import Source

if TYPE_CHECKING:
    from ..shapes import FetchOrder, Placed, Sender, Wanted

FOLDER = naming.transfer(naming.ROOT)
#: Held by ds4_weights too: only one of them writes into the directory at a time. Not on the volume, which may
#: be full.
LOCK = "/var/run/ds4-weights.lock"
LOCK_TIMEOUT_S = 5
#: How often the whole is checked against the catalogue.
MAX_PROOFS = 4
#: The engine's job: while it runs, bulk gives way to it.
SERVER = "com.ds4fleet.server"
#: launchctl answers at once.
LOOK_S = 10
#: The token of this order alone: ds4_prefetch brings it, also while the work goes on; its end removes it.
TOKEN = "token.env"


class Fetch:
    """One order. `dial(peer)` gives the command line that reaches a peer's seed.

    folder: of the order, "" for one that has none (weights.progress.Unwatched).
    """

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
        self.lent = os.path.join(folder, TOKEN) if folder else ""
        self.installer = Installer(
            order["dir"], order.get("uid", 0), order.get("gid", 0), order["chunk_bytes"]
        )
        self.route = route.Route(
            order,
            state,
            dial or (lambda peer: peer.get("socket") or weights_peer.ssh_argv(peer, folder)),
            lambda url, size_bytes, pace: source(url, size_bytes, self._token(), pace),
            wait,
        )

    def run(self) -> None:
        """All files of the order; raises InstallError, Aborted."""
        self.await_volume()
        for wanted in self.order["files"]:
            self.state.values["file"] = wanted["name"]
            give_way()
            self.bring(wanted, self.installer.look(wanted))
            if self.order.get("prefetched_for"):
                stamp.mark(wanted["path"], self.order["prefetched_for"])
            self.state.settled_bytes += wanted["bytes"]
            self.state.part = None

    def await_volume(self, seconds: int | None = None) -> None:
        """At boot this may begin before the volume is mounted, which would hide what is written there.

        seconds: after which InstallError says so; without them it waits until the volume is there, or an
        operator ends it. launchd does not start again a job that has said why it ends.
        """
        if not self.order.get("on_volume"):
            return
        for _second in itertools.count() if seconds is None else range(seconds):
            if os.path.ismount(self.order["dir"]):
                self.state.values["reason"] = ""
                return
            if self.state.control()[0] == "abort":
                raise Aborted
            self.state.values["reason"] = "waits for the volume of %s" % self.order["dir"]
            self.wait(1)
        raise InstallError("the volume of %s is not mounted; nothing was fetched" % self.order["dir"])

    def _token(self) -> str:
        path = self.lent if os.path.exists(self.lent) else self.order.get("token_file")
        try:
            return weights_token.read(path) if path else ""
        except ValueError as error:
            raise InstallError(str(error)) from None

    def bring(self, wanted: Wanted, look: str, receive: Callable[[Wanted], Placed] | None = None) -> Placed:
        """Make sure that the file is in place and proven.

        look: what Installer.look said of it. receive: brings it in the place of `self.receive`.
        """
        if look != "proven":
            self.state.values["state"] = "proving"
        found, hashed_bytes = self.installer.find(wanted, look)
        self.state.values["hashed_bytes"] += hashed_bytes
        placed = found or (receive or self.receive)(wanted)
        return {**placed, "hashed_bytes": hashed_bytes + (0 if found else placed["hashed_bytes"])}

    def receive(self, wanted: Wanted) -> Placed:
        """Fetch what is missing, prove the whole, and put it in its place."""
        try:
            return self._receive(wanted)
        except NoRoom:
            # A wrong copy that was kept to be looked at gives way to the right one.
            aside = wanted["path"] + MISMATCH
            if not os.path.exists(aside):
                raise
            os.unlink(aside)
            return self._receive(wanted)

    def _receive(self, wanted: Wanted) -> Placed:
        revision = chunks.revision_of(wanted)
        part = chunks.ChunkedPart(
            wanted["path"],
            revision,
            wanted["bytes"],
            self.order["chunk_bytes"],
            wanted.get("pieces") or (),
        )
        earlier = earlier_part.path_of(wanted["path"], revision)
        self.installer.room(wanted, part.path, earlier)
        self.route.gave = ""
        try:
            self.state.part = part.open()
            earlier_part.move(earlier, part, self.state.check_abort)
            return self._prove(wanted, part)
        except OSError as error:
            if error.errno not in FULL:
                raise InstallError("%s cannot be written: %s" % (part.path, error.strerror)) from None
            sentence = (
                "%s is full: %d of %d bytes of %s are there and are kept; make room or raise the quota, then"
                " run this again"
            )
            raise NoRoom(
                sentence % (self.order["dir"], part.done_bytes, wanted["bytes"], wanted["name"])
            ) from None
        finally:
            part.close()

    def _prove(self, wanted: Wanted, part: chunks.ChunkedPart) -> Placed:
        wrong, resumed, hashed_bytes = "", bool(part.done), 0
        before = sum(self.state.values["from"].values())
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
            hashed_bytes += part.whole.reread_bytes + wanted["bytes"]
            self.state.values["hashed_bytes"] += part.whole.reread_bytes + wanted["bytes"]
            if spoiled:
                wrong = "%d of its chunks came back from the disk with other bytes" % len(spoiled)
                part.drop(spoiled)
                continue
            wrong = judge(part.path, wanted, digest, part.whole.digest)
            if not wrong:
                part.place()
                self.installer.settle(wanted["path"], digest)
                fetched_bytes = sum(self.state.values["from"].values()) - before
                return {
                    **result(wanted, "fetched", digest),
                    "fetched_bytes": fetched_bytes,
                    "hashed_bytes": hashed_bytes,
                    "source": self.route.gave or None,
                }
            # Received as they were sent: whoever sent them has a wrong file, a peer sooner than a source.
            # What an earlier run left may be from anybody.
            refused |= set() if resumed else senders & peers or senders
            resumed, bad = False, part.whole.wrong_chunks()
            others = {source["name"] for source in self.route.sources(wanted)} - refused
            if not others and len(bad) in (0, part.total):
                break
            part.drop(bad or sorted(part.done))
        os.unlink(part.journal.path)
        raise self.installer.refuse(wanted, part.path, wrong, self.route.gave or "an earlier run")


def give_way() -> None:
    """Read and write as is due: after a server that runs here, else as any other program."""
    served = False
    # Without an answer of launchd nothing is known to serve.
    with contextlib.suppress(launchd.JobError):
        served = launchd.pid_of(launchd.Launchd(LOOK_S).look(SERVER)) is not None
    io_policy.set_policy("utility" if served else "standard")


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
