"""What must not change, as JSON: run on a simulated Mac before and after a program of root's.

{"kept": {path: what it is}, "given": [paths of ours that are not root's]}; with an argument instead, the
paths of files where that text is.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys

#: Whose places stay as they are, whatever the programs do.
KEPT = (
    "/private/etc",
    "/private/var/db",
    "/private/var/root",
    "/Library",
    "/Users",
    "/usr/local",
    "/opt/ds4/libexec",
    "/opt/ds4/etc",
    "/opt/ds4/engine",
    "/opt/ds4/models",
)
#: What root's programs write there with every right; its owner and kind are looked at all the same.
WRITTEN = (
    "/Library/Developer",
    "/opt/ds4/engine/mirror.git",
    "/opt/ds4/engine/releases",
    "/opt/ds4/etc/jump",
    "/private/etc/ssh/ds4_seed_keys",
    "/private/var/db/",
)
#: Where everybody may write, the test itself, and launchd's own record of the jobs that it is to disable.
LEFT_OUT = ("/Users/Shared/", "/private/var/root/hostile-test", "/private/var/db/com.apple.xpc.launchd/")
OURS = ("/opt/ds4", "/private/var/log/ds4")
#: Of ours, what is the accounts' own.
GIVEN = ("/opt/ds4/run", "/opt/ds4/kv/", "/opt/ds4/var/server.running.conf", "/private/var/log/ds4/")
READ_BYTES = 1 << 20


def walk(root):
    yield root
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            yield os.path.join(folder, name)


def look(path):
    """Kind, mode, owner and, of a file that is not written to, what is in it."""
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    found = [stat.S_IFMT(facts.st_mode), stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid]
    if path.startswith(WRITTEN) or path.endswith((".stamp", ".manifest")):
        return found
    if stat.S_ISLNK(facts.st_mode):
        return [*found, target(path)]
    if stat.S_ISREG(facts.st_mode):
        return [*found, facts.st_size, hashlib.sha256(head(path)).hexdigest()]
    return found


def target(path):
    """Where a link leads; an account may have put something else there meanwhile."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def kept():
    found = {}
    for root in KEPT:
        for path in walk(root):
            there = look(path)
            # A build comes and goes.
            passing = path.startswith(WRITTEN) and (path.startswith("/opt/ds4") or "Developer" in path)
            if there is not None and not passing and not path.startswith(LEFT_OUT):
                found[path] = there
    return found


def given():
    found = []
    for root in OURS:
        for path in walk(root):
            facts = look(path)
            if facts and facts[2] and not path.startswith(GIVEN) and ".build.partial" not in path:
                found.append(path)
    return sorted(found)


def holding(text):
    """Files where others could read it."""
    found = []
    for root in ("/opt/ds4", "/private/tmp", "/private/var/tmp", "/private/var/log", "/private/var/run"):
        for path in walk(root):
            facts = look(path)
            if facts and stat.S_ISREG(facts[0]) and text in head(path):
                found.append(path)
    return found


def head(path):
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(handle, READ_BYTES)
    finally:
        os.close(handle)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(holding(sys.argv[1].encode())))
    else:
        print(json.dumps({"kept": kept(), "given": given()}))
