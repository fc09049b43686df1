"""The one rollout that may run from a checkout: who holds its lock, and a playbook that outlives `fab`."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ds4agent.upgrade_state import ENDED
from ds4fleet import held_file
from ds4fleet.upgrade.codes import Code, RolloutError
from ds4fleet.upgrade.journal import Journal

#: Names, in the environment of a playbook, the run that holds the controller's lock for it.
RUN_VARIABLE = "DS4_ROLLOUT"
#: Names, in the same place, the descriptor by which it inherits that lock, and the folder of the rollouts.
LOCK_VARIABLE = "DS4_ROLLOUT_LOCK"
#: Below the folder of the rollouts: who runs one, and the playbook that it started.
LOCK, PLAYBOOKS_LOCK = "lock", "lock.playbook"
#: How long another process may look at the controller's lock and take it, and how often that is tried.
LOOKED_AT_S = 1.0
POLL_S = 0.05


@dataclass(frozen=True)
class Holder:
    """Who holds this checkout's lock, or held it when it died.

    alive: one of its processes still runs. pid: of `fab`, or of the playbook that has outlived it.
    """

    run_id: str
    owner: str
    pid: int
    since: str
    alive: bool

    @classmethod
    def of(cls, record: Mapping[str, Any] | None, alive: bool) -> Holder | None:
        """From what `held_file.look` found; None where no process holds or held it."""
        try:
            known = record or {}
            return cls(
                str(known["run_id"]), str(known["owner"]), int(known["pid"]), str(known["since"]), alive
            )
        except (ValueError, KeyError, TypeError):
            return cls("a rollout", "somebody", 0, "just now", alive) if alive else None

    def __str__(self) -> str:
        state = "is gone without having ended"
        if self.alive:
            state = f"is running as process {self.pid}"
            if not _lives(self.pid):
                state = "is gone, and what it started still runs"
        return f"{self.run_id} of {self.owner} since {self.since} {state}"


def holder(root: Path) -> Holder | None:
    """Who holds the lock below root, `fab` or the playbook that has outlived it; None when it is free."""
    deadline = time.monotonic() + LOOKED_AT_S
    record, alive = held_file.look(root / LOCK)
    while alive and record is None and time.monotonic() < deadline:
        # One of an earlier version says who it is a moment after it takes the lock.
        time.sleep(POLL_S)
        record, alive = held_file.look(root / LOCK)
    if not alive:
        playbook, at_work = held_file.look(root / PLAYBOOKS_LOCK)
        if at_work:
            record, alive = playbook, at_work
    return Holder.of(record, alive)


@contextmanager
def controller_lock(root: Path, run_id: str, owner: str, *, take_over: bool = False) -> Iterator[int]:
    """Hold the one rollout that may run from this checkout; yields the descriptor that holds it.

    A playbook that inherits the descriptor keeps the lock when this process is killed, so that no other run
    starts beside it (`join`); what either of them forks does not. A lock whose owner died is left for
    `take_over`, for the same run to go on, or for the same owner where that run had not even a plan: it has
    begun nothing. One of a run that has ended stops no other run.
    Raises RolloutError (locked) that names the owner.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _turn(root):
        before = holder(root)
        if before is not None and (
            before.alive or not (take_over or _gives_way(root, before, run_id, owner))
        ):
            raise RolloutError(Code.LOCKED, f"here {before}")
        since = datetime.now(UTC).isoformat(timespec="seconds")
        mine = {"run_id": run_id, "owner": owner, "pid": os.getpid(), "since": since}
        held = held_file.hold(root / LOCK, mine)
    try:
        yield held.fileno()
    finally:
        held.release()


def _gives_way(root: Path, before: Holder, run_id: str, owner: str) -> bool:
    """Whether the lock of a rollout whose owner is gone is free for another one."""
    if not (root / before.run_id / "plan.json").exists():
        return before.run_id == run_id or before.owner == owner
    return before.run_id == run_id or Journal(root / before.run_id).progress().phase in ENDED


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    try:
        with held_file.turn(root, LOOKED_AT_S):
            yield
    except TimeoutError as error:
        held = holder(root)
        raise RolloutError(Code.LOCKED, f"here {held if held and held.alive else error}") from None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def lock_environment(lock: int) -> dict[str, str]:
    """What a playbook that inherits the controller's lock is told, to `join`."""
    path = held_file.path_of(lock)
    return {} if path is None else {LOCK_VARIABLE: f"{lock}:{path.parent.absolute()}"}


def join() -> None:
    """In a playbook that `fab` started: hold the lock in its own name while it runs.

    Its workers then hold nothing, and who meets the lock is told of this process when `fab` is gone.
    Raises RolloutError (locked) when another playbook holds it.
    """
    descriptor, _colon, folder = os.environ.pop(LOCK_VARIABLE, "").partition(":")
    root = Path(folder)
    if not folder or not _is_open(int(descriptor), root / LOCK):
        return
    with _turn(root):
        record, _alive = held_file.look(root / LOCK)
        if held_file.look(root / PLAYBOOKS_LOCK)[1]:
            raise RolloutError(Code.LOCKED, f"here {holder(root)}")
        held = held_file.hold(root / PLAYBOOKS_LOCK, {**(record or {}), "pid": os.getpid()})
    atexit.register(held.release)
    os.close(int(descriptor))


def _is_open(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


_held: dict[Path, ExitStack] = {}


def hold_until_exit(root: Path, run_id: str, owner: str) -> None:
    """Hold the controller's lock until this process ends; it may ask again. Raises RolloutError (locked)."""
    if root in _held:
        return
    stack = ExitStack()
    stack.enter_context(controller_lock(root, run_id, owner))
    _held[root] = stack
    atexit.register(stack.close)
