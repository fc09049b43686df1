# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Bring system jobs of launchd to a state, by polling what launchd says and never by sleeping for luck.

bootout returns while the process is still dying, and bootstrap fails with 5 or 37 until it is gone; a changed
plist is only read by bootstrap. So: bootout, wait until `print` says 113, bootstrap with retries, kickstart.
"""

from __future__ import annotations

import os
import plistlib
import pwd
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.parsers.expat import ExpatError

from . import parse
from . import run as mac_run

if TYPE_CHECKING:
    from ..shapes import JobFacts, JobOrder
    from .run import Result

#: Exit status of launchctl that means "no such job" (`launchctl error 113`).
NOT_FOUND = 113
#: bootstrap while the last instance is still going away, or while the job is loaded: try again, look again.
TRANSIENT = (5, 37)
DISABLED = 119
BLOCKED = 161
#: Not loaded any more, or going: 3 No such process, 36 Operation now in progress, 113.
GOING = (0, 3, 36, NOT_FOUND)
POLL_S = 0.25
#: launchd's SIGKILL may itself take a while to be reaped under memory pressure.
REAP_S = 20
DEFAULT_EXIT_TIMEOUT_S = 20


class JobError(Exception):
    """One sentence: which job, what launchd said, what to do."""


class Launchd:
    """The system domain. `run` and `poll` have the signatures of those in mac.run."""

    def __init__(
        self,
        timeout_s: float,
        run: Callable[..., Result] = mac_run.run,
        poll: Callable[..., Any] = mac_run.poll,
    ) -> None:
        self.timeout_s = timeout_s
        self.run = run
        self.poll = poll
        self._disabled: dict[str, bool] | None = None

    def look(self, label: str) -> JobFacts | None:
        """What `launchctl print` says of the job, or None when it is not loaded."""
        result = self.run("launchctl", "print", "system/" + label)
        if result.rc == NOT_FOUND:
            return None
        if not result.ok:
            raise JobError("%s: %s" % (label, result.sentence()))
        return parse.launchctl_print(result.out)

    def is_disabled(self, label: str) -> bool:
        """Whether the sticky store of launchd keeps the job from being loaded."""
        return self._disabled_jobs().get(label, False)

    def _disabled_jobs(self) -> dict[str, bool]:
        if self._disabled is None:
            result = self.run("launchctl", "print-disabled", "system")
            self._disabled = parse.launchctl_disabled(result.out) if result.ok else {}
        return self._disabled

    def steps(self, job: JobOrder, now: JobFacts | None, restart: bool) -> list[str]:
        """Names of the steps that bring the job there from `now` (from look): decided, not done."""
        if job["state"] == "absent":
            return ["bootout"] if now else []
        steps = ["enable"] if self.is_disabled(job["label"]) else []
        if now and restart:
            steps += ["bootout", "bootstrap"]
        elif not now:
            steps += ["bootstrap"]
        if job["state"] == "started" and (steps or now is None or now["pid"] is None):
            steps += ["start"]
        return steps

    def do(self, step: str, job: JobOrder) -> None:
        """Carry out one of `steps`; raises JobError."""
        getattr(self, "_" + step)(job)

    def _enable(self, job: JobOrder) -> None:
        self._must(self.run("launchctl", "enable", "system/" + job["label"]), job)
        self._disabled_jobs()[job["label"]] = False

    def _bootout(self, job: JobOrder) -> None:
        label = job["label"]
        now = self.look(label)
        if now is None:
            return
        result = self.run("launchctl", "bootout", "system/" + label)
        if result.rc not in GOING + TRANSIENT:
            self._must(result, job)
        grace_s = (now["exit_timeout_s"] or DEFAULT_EXIT_TIMEOUT_S) + REAP_S
        if not self.poll(lambda: self.look(label) is None, grace_s, POLL_S):
            raise JobError("%s is still there %d s after it was told to stop" % (label, grace_s))

    def _bootstrap(self, job: JobOrder) -> None:
        label, plist = job["label"], job["plist"]
        check_plist(plist, label)
        last: list[Result] = []

        def loaded() -> bool:
            result = self.run("launchctl", "bootstrap", "system", plist)
            last[:] = [result]
            if result.ok:
                return True
            if result.rc == DISABLED:
                self._enable(job)
                return False
            if result.rc not in TRANSIENT:
                return True
            # 5 is also the answer to a job that is there already.
            return self.look(label) is not None

        self.is_disabled(label)
        if not self.poll(loaded, self.timeout_s, POLL_S * 2) or (
            not last[0].ok and last[0].rc not in TRANSIENT
        ):
            raise JobError(self._why_not(job, last[0]))

    def _start(self, job: JobOrder) -> None:
        label = job["label"]
        now = self.look(label)
        if now is not None and now["pid"] is not None:
            return
        self._must(self.run("launchctl", "kickstart", "system/" + label), job)

    def _must(self, result: Result, job: JobOrder) -> None:
        if not result.ok:
            raise JobError("%s: %s" % (job["label"], result.sentence()))

    def _why_not(self, job: JobOrder, result: Result) -> str:
        if result.rc == BLOCKED:
            return (
                "%s is switched off under Login Items & Extensions of System Settings: allow it there (%s)"
                % (job["label"], result.sentence())
            )
        lint = self.run("plutil", "-lint", job["plist"])
        more = "" if lint.ok else "; %s" % (lint.out or lint.err).strip()
        return "%s was not loaded within %d s: %s%s" % (job["label"], self.timeout_s, result.sentence(), more)


def pid_of(now: JobFacts | None) -> int | None:
    """The process of a job that was looked at; None where it has none or is not loaded."""
    return now["pid"] if now else None


def check_plist(path: str, label: str) -> None:
    """Refuse what launchd would refuse later and with fewer words; raises JobError."""
    try:
        facts = os.lstat(path)
        with open(path, "rb") as handle:
            job = plistlib.load(handle)
    except (OSError, ValueError, ExpatError) as error:
        raise JobError("%s: plist %s cannot be read: %s" % (label, path, error)) from None
    if stat.S_ISLNK(facts.st_mode):
        raise JobError("%s: plist %s is a link, which launchd ignores at boot" % (label, path))
    if job.get("Label") != label:
        raise JobError("%s: plist %s is for label %s" % (label, path, job.get("Label")))
    user = job.get("UserName")
    if user:
        try:
            pwd.getpwnam(user)
        except KeyError:
            raise JobError("%s: account %s does not exist" % (label, user)) from None


def settle_plist(path: str, dry: bool = False) -> bool:
    """Make a plist root's and writable by root alone, or launchd refuses it; returns whether it was not."""
    facts = os.stat(path)
    wheel = 0
    wrong = (facts.st_uid, facts.st_gid) != (0, wheel) or bool(facts.st_mode & 0o022)
    if wrong and not dry:
        os.chown(path, 0, wheel)
        os.chmod(path, 0o644)
    return wrong


def describe(job: JobOrder, now: JobFacts | None) -> str:
    """One line for a diff."""
    if now is None:
        return "%s: not loaded\n" % job["label"]
    return "%s: loaded, %s\n" % (job["label"], "running" if now["pid"] is not None else now["state"])
