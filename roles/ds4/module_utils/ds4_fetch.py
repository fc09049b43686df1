# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Bring the files of an order to this Mac, detached: started by launchd, also after a reboot.

The folder holds order.json (what, and from whom in which order), control (`run`, `pause` or `abort`) and
status.json, written anew each second: its age tells seed and operator whether somebody is at work.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time

from ansible.module_utils import ds4_chunks, ds4_peer, ds4_window
from ansible.module_utils.ds4_placement import FULL, Placement, PlacementError
from ansible.module_utils.ds4_proof import MISMATCH, judge, put_aside
from ansible.module_utils.ds4_run import locked
from ansible.module_utils.ds4_transport import Pace, Source, SourceError

FOLDER = "/opt/ds4/var/stage"
#: Held by ds4_weights too: nobody else writes into the directory meanwhile.
LOCK = "/var/run/ds4-weights.lock"
LOCK_TIMEOUT_S = 5
#: With a lesser source, a better one is tried again after so long; one that failed rests as long.
RETRY_S = 20
#: Rounds through all sources without a byte gained, after which the fetch is given up, and the pause between.
MAX_ROUNDS = 4
ROUND_S = 3
#: Trials of the whole against the catalogue.
MAX_PROOFS = 4


class Held(Exception):
    """Paused by the operator or by the window, or another order came: drop connections and look again."""


class Aborted(Exception):
    """The operator wants no more of it; parts stay for a later run."""


class State:
    """What status.json says; a thread writes it each second and reads what the operator wants."""

    def __init__(self, folder, order, clock=time.time):
        self.folder = folder
        self.order = order
        self.clock = clock
        self.values = {
            "id": order["id"],
            "state": "starting",
            "file": "",
            "source": "",
            "reason": "",
            "error": "",
            "done_bytes": 0,
            "total_bytes": sum(wanted["bytes"] for wanted in order["files"]),
            "bytes_per_s": 0,
            "from": {},
            "hashed_bytes": 0,
            "pid": os.getpid(),
        }
        self.part = None
        self.settled_bytes = 0
        self._samples = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self):
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._over.set()
        self._thread.join()
        self.write()

    def control(self):
        """(word, reason): run, hold or abort."""
        try:
            with open(os.path.join(self.folder, "control")) as handle:
                word = handle.read().strip()
        except OSError:
            word = "run"
        if word == "abort":
            return "abort", "aborted by the operator"
        if word == "pause":
            return "hold", "paused by the operator"
        window = self.order.get("window", "")
        if not ds4_window.is_open(window, self.clock()):
            return "hold", "waits for %s" % window
        return "run", ""

    def check(self):
        """Raises Held or Aborted when the work is to stop here."""
        word, _reason = self.control()
        if word == "abort":
            raise Aborted
        if word == "hold":
            raise Held

    def gained(self, source, count):
        self.values["from"][source] = self.values["from"].get(source, 0) + count

    def _beat(self):
        while not self._over.wait(1):
            self.write()

    def write(self):
        now = self.clock()
        part = self.part
        done = self.settled_bytes + (part.done_bytes if part else 0)
        self._samples = [*self._samples[-9:], (now, done)]
        then, before = self._samples[0]
        speed = int((done - before) / (now - then)) if now > then else 0
        self.values.update(done_bytes=done, bytes_per_s=max(0, speed), updated_at=int(now))
        path = os.path.join(self.folder, "status.json")
        with open(path + ".new", "w") as handle:
            json.dump(self.values, handle)
        os.chmod(path + ".new", 0o644)
        os.replace(path + ".new", path)


class Counted:
    """A part that tells the state who sent a chunk."""

    def __init__(self, part, state, source):
        self.part, self.state, self.source = part, state, source
        self.total_bytes, self.chunk_bytes = part.total_bytes, part.chunk_bytes

    def commit(self, index, data, digest):
        self.part.commit(index, data, digest)
        self.state.gained(self.source, len(data))


class Fetch:
    """One order. `dial(peer)` gives the command line that reaches a peer's seed."""

    def __init__(self, folder, order, state, dial=None, wait=time.sleep, source=Source):
        self.order = order
        self.state = state
        self.wait = wait
        self.source = source
        self.dial = dial or (lambda peer: ds4_peer.ssh_argv(peer, folder))
        self.placement = Placement(
            folder=order["dir"], uid=0, gid=0, token_file=order.get("token_file") or None
        )
        self.placement.uid, self.placement.gid = order.get("uid", 0), order.get("gid", 0)
        near = Pace(order.get("rate_limit_mbps", 0) * 1000000)
        wide = Pace(order.get("wide_rate_limit_mbps", 0) * 1000000)
        self.near, self.wide = near, wide if wide.bytes_per_s else near
        self.resting = {}

    def run(self):
        """All files of the order; raises PlacementError, Aborted."""
        for wanted in self.order["files"]:
            self.state.values["file"] = wanted["name"]
            self._bring(wanted)
            self.state.settled_bytes += wanted["bytes"]
            self.state.part = None

    def _bring(self, wanted):
        look = self.placement.look(wanted)
        if look == "unproven":
            self.state.values["state"] = "proving"
            adopted, hashed = self.placement.adopt(wanted)
            self.state.values["hashed_bytes"] += hashed
            look = "proven" if adopted else "missing"
        if look == "proven":
            return
        revision = ds4_chunks.revision_of(wanted)
        part = ds4_chunks.ChunkedPart(wanted["path"], revision, wanted["bytes"], self.order["chunk_bytes"])
        self._room(wanted, part)
        try:
            self.state.part = part.open()
            self._prove(wanted, part)
        except OSError as error:
            if error.errno not in FULL:
                raise
            sentence = "%s is full: %d of %d bytes of %s are there and are kept"
            raise PlacementError(
                sentence % (self.order["dir"], part.done_bytes, wanted["bytes"], wanted["name"])
            ) from None
        finally:
            part.close()

    def _prove(self, wanted, part):
        wrong, refused, resumed = "", set(), bool(part.done)
        peers = {peer["name"] for peer in self.order["peers"]}
        for _trial in range(MAX_PROOFS):
            senders = self._complete(wanted, part, refused)
            self.state.values["state"] = "proving"
            digest = part.whole.hexdigest()
            self.state.values["hashed_bytes"] += part.whole.reread_bytes
            wrong = judge(part.path, wanted, digest)
            if not wrong:
                part.place()
                self.placement.settle(wanted["path"], digest)
                return
            spoiled = part.spoiled()
            if not spoiled:
                # Received as they were sent: whoever sent them has a wrong file, a peer sooner than a source.
                # What an earlier run left may be from anybody.
                refused |= set() if resumed else senders & peers or senders
                resumed = False
                spoiled = sorted(part.done)
            part.drop(spoiled)
        os.unlink(part.journal.path)
        aside = put_aside(part.path, wanted["path"])
        raise PlacementError(
            "%s is not what was asked for: %s; kept as %s, it is not linked and not served"
            % (wanted["name"], wrong, aside)
        )

    def _complete(self, wanted, part, refused):
        """Fetch what is missing; returns the names of those who sent it."""
        senders, rounds, why, fresh = set(), 0, {}, not part.done
        while part.missing():
            self._hold()
            self.state.values["state"] = "fetching"
            before, better = len(part.done), False
            for source in self._sources(wanted):
                name = source["name"]
                # Those behind us can only have something when this is not the first attempt.
                ahead = source.get("wait", True)
                if name in refused or (fresh and not rounds and not ahead):
                    continue
                if self.resting.get(name, 0) > time.monotonic():
                    better = better or ("url" not in source and ahead)
                    continue
                self.state.values["source"] = name
                count = len(part.done)
                until = time.monotonic() + RETRY_S if better else None
                try:
                    self._pull(source, wanted, Counted(part, self.state, name), part, until)
                except (SourceError, OSError) as error:
                    if isinstance(error, OSError) and error.errno in FULL:
                        raise
                    why[name] = str(error)
                    self.resting[name] = time.monotonic() + RETRY_S
                    better = better or ("url" not in source and ahead)
                except Held:
                    break
                finally:
                    if len(part.done) > count:
                        senders.add(name)
                if not part.missing() or (until and time.monotonic() >= until):
                    break
            self.state.values["reason"] = "; ".join("%s: %s" % item for item in sorted(why.items()))
            held = self.state.control()[0] == "hold"
            rounds = 0 if held or len(part.done) > before else rounds + 1
            if rounds >= MAX_ROUNDS:
                sentence = "%s could not be fetched, %d of %d bytes are kept for the next run: %s"
                raise PlacementError(
                    sentence
                    % (
                        wanted["name"],
                        part.done_bytes,
                        wanted["bytes"],
                        self.state.values["reason"] or "there is no other source",
                    )
                )
            if rounds:
                self.resting.clear()
                self.wait(ROUND_S)
        self.state.values["reason"] = ""
        return senders

    def _sources(self, wanted):
        yield from self.order["peers"]
        for url in wanted["urls"]:
            yield {"name": url.split("/")[2], "url": url}

    def _pull(self, source, wanted, counted, part, until):
        if "url" in source:
            self._pull_url(source, wanted, counted, part, until)
            return
        pace = self.wide if source.get("wide") else self.near
        peer = ds4_peer.Peer(source["name"], self.dial(source), pace, self.state.check)
        try:
            indices = part.missing()
            if not source["wait"]:
                # Somebody behind us in the chain: what he has is there already, and he waits for the rest.
                have = peer.have(wanted["name"], part.total)
                indices = [index for index in indices if index in have]
                if not indices:
                    raise SourceError("nothing that is missing here")
            peer.pull(wanted["name"], counted, indices, source["wait"], until)
        finally:
            peer.close()

    def _pull_url(self, source, wanted, counted, part, until):
        reader = self.source(source["url"], wanted["bytes"], self.placement.token(), self.wide)
        for first, behind in ds4_chunks.runs(part.missing()):
            start = ds4_chunks.span(first, part.total_bytes, part.chunk_bytes)[0]
            last_start, length = ds4_chunks.span(behind - 1, part.total_bytes, part.chunk_bytes)
            gathered, index = bytearray(), [first]

            def take(piece, gathered=gathered, index=index):
                gathered.extend(piece)
                while index[0] < part.total:
                    size = ds4_chunks.span(index[0], part.total_bytes, part.chunk_bytes)[1]
                    if len(gathered) < size:
                        break
                    data = bytes(gathered[:size])
                    del gathered[:size]
                    counted.commit(index[0], data, hashlib.sha256(data).hexdigest())
                    index[0] += 1
                    self.state.check()
                    if until is not None and time.monotonic() >= until:
                        raise Held

            reader.fetch(start, take, last_start + length)

    def _hold(self):
        """Wait while paused; raises Aborted."""
        while True:
            word, reason = self.state.control()
            if word == "abort":
                raise Aborted
            if word == "run":
                return
            self.state.values.update(state="paused", reason=reason, source="")
            self.wait(0.5)

    def _room(self, wanted, part):
        space = os.statvfs(self.order["dir"])
        there = os.stat(part.path).st_blocks * 512 if os.path.exists(part.path) else 0
        need, free = wanted["bytes"] - there, space.f_bavail * space.f_frsize
        aside = wanted["path"] + MISMATCH
        if need > free and os.path.exists(aside):
            os.unlink(aside)
            free += wanted["bytes"]
        if need > free:
            raise PlacementError(
                "%s has %d bytes free, %s still needs %d: make room or raise the quota; nothing was fetched"
                % (self.order["dir"], free, wanted["name"], need)
            )


def main(folder=FOLDER):
    try:
        with open(os.path.join(folder, "order.json")) as handle:
            order = json.load(handle)
    except FileNotFoundError:
        return
    with State(folder, order) as state:
        ended = {}
        try:
            if state.control()[0] == "abort":
                raise Aborted
            with locked(LOCK, LOCK_TIMEOUT_S):
                Fetch(folder, order, state).run()
            ended = {"state": "done", "source": "", "reason": ""}
        except Aborted:
            ended = {"state": "aborted", "reason": "aborted by the operator"}
        except (PlacementError, TimeoutError) as error:
            ended = {"state": "failed", "error": str(error)}
        state.values.update(ended, bytes_per_s=0)
