# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What a daemon may and can do here, asked by a throw-away job of launchd: read and write in a directory.

On external disks privacy settings can forbid daemons what they allow a session by ssh: EPERM, whoever owns
the files (actions/runner#3695). So only a daemon's own answer counts. (B)
"""

from __future__ import annotations

import os
import plistlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..border import bounded_json, plain
from . import run as mac_run

if TYPE_CHECKING:
    from .run import Result

LABEL = "com.ds4fleet.daemon-probe"
PARENT = "/private/var/tmp"
WAIT_S = 20
GONE_S = 10
#: More than the job ever prints.
ANSWER_BYTES = 4096
#: Only root can leave the directory; it is the root of a volume that root owns.
SCRIPT = """
import json, os, sys
path = os.path.join(sys.argv[1], ".ds4-probe.%d" % os.getpid())
try:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(handle, b"ds4-fleet")
        os.fsync(handle)
        os.lseek(handle, 0, 0)
        read = os.read(handle, 64) == b"ds4-fleet"
    finally:
        os.close(handle)
        os.unlink(path)
    os.listdir(sys.argv[1])
    print(json.dumps({"error": "" if read else "it read other bytes than it wrote"}), flush=True)
except OSError as error:
    print(json.dumps({"error": str(error.strerror)}), flush=True)
"""


class NoAnswer(Exception):
    """Why the job said nothing, as a clause."""


def refused(
    folder: str,
    parent: str = PARENT,
    run: Callable[..., Any] = mac_run.run,
    poll: Callable[..., Any] = mac_run.poll,
) -> str:
    """Why a daemon cannot read and write in `folder`; "" when it can. parent: see ask."""
    try:
        said = ask(SCRIPT, [folder], {}, WAIT_S, parent, run, poll)
    except NoAnswer as error:
        return str(error)
    return plain.line(bounded_json.text(said.get("error", "no answer"), 200), 200)


def ask(
    script: str,
    arguments: Sequence[str],
    keys: Mapping[str, Any],
    wait_s: float,
    parent: str = PARENT,
    run: Callable[..., Any] = mac_run.run,
    poll: Callable[..., Any] = mac_run.poll,
) -> dict[str, Any]:
    """The JSON object that a script of Python prints as a job of launchd with these keys. Raises NoAnswer.

    parent: a directory that holds the job's own files meanwhile.
    """
    own = tempfile.mkdtemp(prefix="ds4-daemon-probe-", dir=parent)
    plist, output = os.path.join(own, LABEL + ".plist"), os.path.join(own, "answer.json")
    job = {
        "Label": LABEL,
        "ProgramArguments": [os.path.realpath(sys.executable), "-c", script, *arguments],
        "RunAtLoad": True,
        "StandardOutPath": output,
        **keys,
    }
    try:
        with open(plist, "wb") as stream:
            plistlib.dump(job, stream)
        os.chmod(plist, 0o644)
        run("launchctl", "bootout", "system/" + LABEL)  # of a run that was cut off
        started: Result = run("launchctl", "bootstrap", "system", plist)
        if not started.ok:
            raise NoAnswer("the daemon that asks could not be started: " + started.sentence())
        poll(lambda: os.path.exists(output) and os.path.getsize(output) > 0, wait_s)
        return _answer(output, wait_s)
    finally:
        run("launchctl", "bootout", "system/" + LABEL)
        poll(lambda: not run("launchctl", "print", "system/" + LABEL).ok, GONE_S)
        shutil.rmtree(own)


def _answer(output: str, wait_s: float) -> dict[str, Any]:
    try:
        with open(output, "rb") as stream:
            said: dict[str, Any] = bounded_json.mapping(stream.read(ANSWER_BYTES))
    except (OSError, bounded_json.JsonError):
        raise NoAnswer("a daemon gave no answer within %d s" % wait_s) from None
    return said
