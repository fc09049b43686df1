"""launchd as a state machine: jobs, what keeps them alive, and when the next thing is due.

Nothing here forks, signals or reads a clock: `Launchd` asks its `Effects` to do so, and is told what happened
by `exited` and `tick`. Rules and numbers: reference macos 2.1 to 2.6 and recordings/launchctl; where those
leave a choice, the constant or the method says what was chosen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from maclab.machine.job_spec import JobSpec, next_moment
from maclab.machine.launchd_numbers import DISABLED, EINPROGRESS, EIO, ESRCH, NO_SERVICE

LONGEST_BACKOFF_S = 1200.0
POLL_S = 1.0
"""How often watched paths are looked at (macOS has events for it)."""
EX_CONFIG = 78
SHUTDOWN_LIMIT_S = 65.0
"""`maximum allowed shutdown time = 65 s` (recording print_system_domain_trimmed)."""
STANDARD_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


NOT_RUNNING, RUNNING, SCHEDULED = "not running", "running", "spawn scheduled"
SIGTERMED, SIGKILLED = "SIGTERMed", "SIGKILLed"

_CRASH_SIGNALS = {
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGBUS,
    signal.SIGSEGV,
    signal.SIGSYS,
}


class Effects(Protocol):
    """What the state machine has done for it."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    def wall(self) -> datetime:
        """Local time, for StartCalendarInterval."""

    def spawn(self, spec: JobSpec) -> int:
        """Start the job's process, leader of its own group; returns its pid. It exits EX_CONFIG if it cannot
        run.
        """

    def signal(self, pid: int, number: int, *, group: bool) -> None:
        """Send a signal to the process or to its whole group; one that has gone is no error."""

    def exists(self, path: str) -> bool:
        """Whether the path exists (KeepAlive PathState)."""

    def stamp(self, path: str) -> object:
        """Something that changes when the path changes (WatchPaths)."""

    def listen(self, spec: JobSpec) -> None:
        """Open the job's socket."""

    def unlisten(self, spec: JobSpec) -> None:
        """Close the job's socket."""

    def log(self, text: str) -> None:
        """launchd's own log."""


@dataclass
class Job:
    """A loaded job and where it stands. Times are of the effects' clock."""

    spec: JobSpec
    state: str = NOT_RUNNING
    pid: int = 0
    runs: int = 0
    last_status: int | None = None
    """Wait status of the last end, None while it has never exited."""
    exit_reason: str = ""
    """macOS's own reason for the last end (OS_REASON_..., JETSAM_REASON_...), "" for none."""
    started_at: float | None = None
    spawn_at: float | None = None
    kill_at: float | None = None
    gone_at: float | None = None
    """When a job that was booted out and has ended is forgotten (faults.SLOW_BOOTOUT)."""
    removing: bool = False
    restart: bool = False
    crashes: int = 0
    reason: str = ""
    interval_at: float | None = None
    calendar_at: datetime | None = None
    stamps: dict[str, object] = field(default_factory=dict)

    @property
    def minimum_runtime_s(self) -> float:
        """ThrottleInterval, doubled with every successive crash after the first, up to 1200 s (B)."""
        doublings = max(0, min(self.crashes, 12) - 1)
        return min(LONGEST_BACKOFF_S, self.spec.throttle_s * float(2**doublings))

    @property
    def label(self) -> str:
        return self.spec.label


class Launchd:
    """The jobs of the system domain."""

    def __init__(self, effects: Effects, disabled: Mapping[str, bool] | None = None) -> None:
        self.effects = effects
        self.jobs: dict[str, Job] = {}
        self.disabled: dict[str, bool] = dict(disabled or {})
        self.linger_s = 0.0
        """How long a job that was booted out stays in the list after its process ended (a fault)."""
        self.kill_reason = ""
        """Why the kernel kills a process that launchd has not ended (a fault), "" for no own reason."""
        self.shutting_down = False

    # ----------------------------------------------------------------------------------------------- verbs

    def bootstrap(self, spec: JobSpec) -> int:
        """Load a job. Returns 0 or launchd's error number; 0 does not mean that it runs.

        A label that is loaded, or that is still being torn down, gives 5: the number most seen today.
        """
        if self.shutting_down:
            return EIO
        if spec.label in self.jobs:
            return EIO
        if self.is_disabled(spec):
            return DISABLED
        job = Job(spec)
        self.jobs[spec.label] = job
        now = self.effects.now()
        if spec.start_interval_s:
            job.interval_at = now + spec.start_interval_s
        job.calendar_at = next_moment(spec.calendar, self.effects.wall()) if spec.calendar else None
        job.stamps = {path: self.effects.stamp(path) for path in spec.watch_paths}
        if spec.socket_service:
            self.effects.listen(spec)
        elif spec.starts_by_itself or self._path_wants(job):
            self._start(job, "speculative")
        return 0

    def is_disabled(self, spec: JobSpec) -> bool:
        """The store decides; without an entry there, the plist's own Disabled key."""
        return self.disabled.get(spec.label, spec.disabled)

    def bootout(self, label: str) -> int:
        """Unload a job: SIGTERM now, SIGKILL after its ExitTimeOut, forgotten when its process has ended."""
        job = self.jobs.get(label)
        if job is None:
            return ESRCH
        if job.removing:
            return EINPROGRESS
        self.effects.log(f"{label}: bootout initiated by launchctl")
        job.removing = True
        job.restart = False
        job.spawn_at = job.interval_at = job.calendar_at = None
        if job.spec.socket_service:
            self.effects.unlisten(job.spec)
        if job.pid:
            self._terminate(job)
        else:
            self._forget(job)
        return 0

    def kickstart(self, label: str, *, kill: bool = False) -> int:
        """Run a job now, whatever its conditions and its throttle (man launchctl); `kill` restarts a running
        one.
        """
        job = self.jobs.get(label)
        if job is None or job.removing:
            return NO_SERVICE
        if job.pid:
            if kill:
                job.restart = True
                self._terminate(job)
            return 0
        job.spawn_at = None
        self._spawn(job, "non-ipc demand")
        return 0

    def kill(self, label: str, number: int) -> int:
        """Send a signal to a job's process; 3 when it has none."""
        job = self.jobs.get(label)
        if job is None:
            return NO_SERVICE
        if not job.pid:
            return ESRCH
        self.effects.signal(job.pid, number, group=False)
        return 0

    def set_disabled(self, label: str, value: bool) -> None:
        """enable/disable: only the next bootstrap is affected."""
        self.disabled[label] = value

    def shut_down(self) -> None:
        """Stop every job, the last loaded first; `idle` says when all have ended."""
        self.shutting_down = True
        for job in reversed(list(self.jobs.values())):
            if not job.removing:
                self.bootout(job.label)

    @property
    def idle(self) -> bool:
        """Whether no job has a process."""
        return not any(job.pid for job in self.jobs.values())

    # ---------------------------------------------------------------------------------------------- events

    def exited(self, pid: int, status: int) -> None:
        """A job's process has ended with this wait status. Others' pids are ignored."""
        job = next((job for job in self.jobs.values() if job.pid == pid), None)
        if job is None:
            return
        now = self.effects.now()
        ran_s = now - (job.started_at or now)
        if not job.spec.abandon_process_group:
            self.effects.signal(pid, signal.SIGKILL, group=True)
        job.pid, job.kill_at, job.last_status = 0, None, status
        job.state = NOT_RUNNING
        asked = job.removing or job.restart
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        job.exit_reason = self.kill_reason if killed and not asked else ""
        ours = " | sent by launchd[1]" * (os.WIFSIGNALED(status) and asked)
        self.effects.log(f"{job.label}: {describe_end(status)}{ours}, ran for {ran_s * 1000:.0f}ms")
        if job.removing:
            self._forget(job)
            return
        job.crashes = (
            job.crashes + 1 if status != 0 and ran_s < job.spec.throttle_s and not job.restart else 0
        )
        if job.restart:
            job.restart = False
            self._spawn(job, "non-ipc demand")
        elif self._keeps_alive(job, status):
            self._start(job, "semaphore" if job.spec.keep_alive.any else "speculative")

    def tick(self) -> None:
        """Do what is due by now."""
        now = self.effects.now()
        for job in list(self.jobs.values()):
            if job.kill_at is not None and now >= job.kill_at and job.pid:
                job.kill_at = None
                job.state = SIGKILLED
                self.effects.signal(job.pid, signal.SIGKILL, group=True)
            if job.gone_at is not None and now >= job.gone_at:
                self.jobs.pop(job.label, None)
            if job.removing:
                continue
            if job.spawn_at is not None and now >= job.spawn_at:
                job.spawn_at = None
                self._spawn(job, job.reason)
            self._timers(job, now)
            self._paths(job)

    def deadline(self) -> float | None:
        """Clock value at which `tick` has something to do next; None = not before something else happens."""
        now = self.effects.now()
        moments: list[float] = []
        for job in self.jobs.values():
            moments += [
                at for at in (job.kill_at, job.gone_at, job.spawn_at, job.interval_at) if at is not None
            ]
            if job.calendar_at is not None:
                moments.append(now + max(0.0, (job.calendar_at - self.effects.wall()).total_seconds()))
            if not job.removing and (job.spec.watch_paths or job.spec.keep_alive.path_state):
                moments.append(now + POLL_S)
        return min(moments, default=None)

    # --------------------------------------------------------------------------------------------- inside

    def _timers(self, job: Job, now: float) -> None:
        if job.interval_at is not None and now >= job.interval_at:
            job.interval_at = now + job.spec.start_interval_s
            self._start(job, "timer")
        if job.calendar_at is not None and self.effects.wall() >= job.calendar_at:
            job.calendar_at = next_moment(job.spec.calendar, self.effects.wall())
            self._start(job, "calendar interval")

    def _paths(self, job: Job) -> None:
        for path, before in job.stamps.items():
            stamp = self.effects.stamp(path)
            if stamp != before:
                job.stamps[path] = stamp
                self._start(job, "path")
        if not job.pid and job.spawn_at is None and self._path_wants(job):
            self._start(job, "path state")

    def _path_wants(self, job: Job) -> bool:
        return any(self.effects.exists(path) is wanted for path, wanted in job.spec.keep_alive.path_state)

    def _keeps_alive(self, job: Job, status: int) -> bool:
        keep = job.spec.keep_alive
        crashed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in _CRASH_SIGNALS
        return (
            keep.always
            or (keep.successful_exit is not None and keep.successful_exit is (status == 0))
            or (keep.crashed is not None and keep.crashed is crashed)
            or self._path_wants(job)
        )

    def _start(self, job: Job, reason: str) -> None:
        if job.pid or job.removing or job.spawn_at is not None or self.shutting_down:
            return
        now = self.effects.now()
        due = now if job.started_at is None else job.started_at + job.minimum_runtime_s
        if due <= now:
            self._spawn(job, reason)
            return
        ran_s = now - (job.started_at or now)
        self.effects.log(
            f"{job.label}: Service only ran for {ran_s:.0f} seconds. "
            f"Pushing respawn out by {due - now:.0f} seconds."
        )
        job.reason = reason
        job.spawn_at = due
        job.state = SCHEDULED

    def _spawn(self, job: Job, reason: str) -> None:
        job.reason = reason
        job.started_at = self.effects.now()
        job.runs += 1
        job.pid = self.effects.spawn(job.spec)
        job.state = RUNNING

    def _terminate(self, job: Job) -> None:
        job.state = SIGTERMED
        self.effects.signal(job.pid, signal.SIGTERM, group=False)
        timeout_s = job.spec.exit_timeout_s
        self.effects.log(f"{job.label}: signaled service: Terminated: 15")
        self.effects.log(
            f"{job.label}: scheduling cleanup in {timeout_s:.0f} sec after sending Terminated: 15"
        )
        # ExitTimeOut 0 = wait for ever.
        job.kill_at = self.effects.now() + timeout_s if timeout_s else None

    def _forget(self, job: Job) -> None:
        if self.linger_s:
            job.gone_at = self.effects.now() + self.linger_s
        else:
            self.jobs.pop(job.label, None)
            self.effects.log(f"{job.label}: removing service")


def describe_end(status: int) -> str:
    """A wait status in launchd's words for its log."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"exited due to {signal.Signals(number).name}"
    return f"exited with exit code {os.WEXITSTATUS(status)}"
