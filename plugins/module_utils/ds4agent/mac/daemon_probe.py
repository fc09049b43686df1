# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""May a daemon read and write in a directory? Asked by a throw-away job of launchd.

On external disks privacy settings can forbid daemons what they allow a session by ssh: EPERM, whoever owns
the files (actions/runner#3695). So only a daemon's own answer counts. (B)
"""

from __future__ import annotations

import os
import plistlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..border import bounded_json, plain
from . import run as mac_run

if TYPE_CHECKING:
    from .run import Result

LABEL = "com.ds4fleet.volume-probe"
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


def refused(
    folder: str,
    parent: str = "/private/var/tmp",
    run: Callable[..., Any] = mac_run.run,
    poll: Callable[..., Any] = mac_run.poll,
) -> str:
    """Why a daemon cannot read and write in `folder`; "" when it can. parent: holds the job's own files."""
    own = tempfile.mkdtemp(prefix="ds4-volume-probe-", dir=parent)
    plist, output = os.path.join(own, LABEL + ".plist"), os.path.join(own, "answer.json")
    job = {
        "Label": LABEL,
        "ProgramArguments": [os.path.realpath(sys.executable), "-c", SCRIPT, folder],
        "RunAtLoad": True,
        "StandardOutPath": output,
    }
    try:
        with open(plist, "wb") as stream:
            plistlib.dump(job, stream)
        os.chmod(plist, 0o644)
        run("launchctl", "bootout", "system/" + LABEL)  # of a run that was cut off
        started: Result = run("launchctl", "bootstrap", "system", plist)
        if not started.ok:
            return "the daemon that asks could not be started: " + started.sentence()
        poll(lambda: os.path.exists(output) and os.path.getsize(output) > 0, WAIT_S)
        return _answer(output)
    finally:
        run("launchctl", "bootout", "system/" + LABEL)
        poll(lambda: not run("launchctl", "print", "system/" + LABEL).ok, GONE_S)
        shutil.rmtree(own)


def _answer(output: str) -> str:
    try:
        with open(output, "rb") as stream:
            said = bounded_json.mapping(stream.read(ANSWER_BYTES))
    except (OSError, bounded_json.JsonError):
        return "a daemon gave no answer within %d s" % WAIT_S
    return plain.line(bounded_json.text(said.get("error", "no answer"), 200), 200)
