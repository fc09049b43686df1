"""A service account that was taken over: plants and swaps whatever it may, for as long as it lives.

Runs on a simulated Mac: `hostile.py ACCOUNT SEED`, as root, which it gives up first. It looks for directories
that its account may write to, wherever they are, and knows nothing of what the programs of root mean to do.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import stat
import sys
import time

#: Below these it looks for a place to write to. Programs and configuration must never be among what it finds.
ROOTS = (
    "/opt/ds4",
    "/private/etc",
    "/private/tmp",
    "/private/var/log",
    "/private/var/root",
    "/private/var/run",
    "/private/var/tmp",
    "/Library",
    "/Users",
)
#: Where its links lead: what must stay as it is, also what is not there and must not come to be.
TARGETS = (
    "/private/etc/hostile-secret",
    "/private/etc/hostile-new",
    "/private/etc/sudoers",
    "/private/etc",
    "/private/var/root",
    "/private/var/root/hostile-new",
    "/Library/LaunchDaemons",
    "/Library/LaunchDaemons/com.ds4fleet.server.plist",
    "/opt/ds4/etc/server.conf",
    "/opt/ds4/libexec",
    "/opt/ds4/libexec/ds4-start",
    "/opt/ds4/models",
    "/opt/ds4/var/switch",
    "/dev/zero",
    "/dev/stdin",
)
NAMES = (
    "drain.json",
    "drain.json.new",
    "server.running.conf",
    "server.running.conf.new",
    "ds4.lock",
    "tmp",
    "key",
    "key.pub",
    "ds4-server",
    "download_model.sh",
    "0123456789abcdef0123456789abcdef01234567.kv",
    "0123456789abcdef0123456789abcdef01234567.kv.tmp.77",
    "ds4-push-0123456789ab.sock",
    ".com.apple.dt.CommandLineTools.installondemand.in-progress",
    ".metadata_never_index",
)
HUGE_BYTES = 1 << 40
DEPTH = 60
#: Names in a directory beyond which it clears up: it is to be quick, not to fill a disk.
MANY = 40


def become(account):
    """Gives up root."""
    facts = pwd.getpwnam(account)
    os.setgroups([])
    os.setgid(facts.pw_gid)
    os.setuid(facts.pw_uid)
    os.umask(0)


def places():
    """Directories that this account may write to, mostly its own."""
    found = []
    for root in ROOTS:
        for folder, folders, _files in os.walk(root):
            if os.access(folder, os.W_OK | os.X_OK):
                found.append(folder)
            if folder.count("/") > 9 or len(found) > 200:
                folders[:] = []
    return found


class Hostile:
    """One account at work."""

    def __init__(self, seed):
        self.chance = random.Random(seed)  # noqa: S311 (a repeatable choice, no secret)
        self.mine = os.getuid()

    def act(self, place):
        """One thing in one place."""
        with contextlib.suppress(OSError):
            there = os.listdir(place)
            names = [*NAMES, *there[:MANY]]
            path = os.path.join(place, self.chance.choice(names))
            if len(there) > MANY:
                self.vanish(os.path.join(place, self.chance.choice(there)))
            self.chance.choice((self.plant, self.plant, self.swap, self.vanish))(path)

    def plant(self, path):
        """Something else than a file of ours, at once."""
        if not os.path.lexists(path) or self.chance.random() < 0.7:
            self.vanish(path)
        kinds = (self.link, self.link, self.fifo, self.folder, self.deep, self.huge, self.text, self.socket)
        self.chance.choice(kinds)(path)

    def swap(self, path):
        """What is there and a link or FIFO, to and fro."""
        aside = path + ".aside"
        for _time in range(self.chance.randrange(1, 6)):
            with contextlib.suppress(OSError):
                os.rename(path, aside)
                self.chance.choice((self.link, self.link, self.fifo))(path)
                time.sleep(self.chance.random() * 0.002)
                os.unlink(path)
                os.rename(aside, path)

    def vanish(self, path):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)

    def link(self, path):
        os.symlink(self.chance.choice(TARGETS), path)

    def fifo(self, path):
        os.mkfifo(path)

    def folder(self, path):
        os.mkdir(path)
        self.link(os.path.join(path, self.chance.choice(NAMES)))

    def deep(self, path):
        for _level in range(DEPTH):
            os.mkdir(path)
            path += "/d"
        self.link(path)

    def huge(self, path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            os.ftruncate(handle, HUGE_BYTES)
        finally:
            os.close(handle)

    def text(self, path):
        words = b'weights=x /opt/ds4/models/../../../etc/passwd\nkv_dir=/etc\n\x1b[31m{"draining": 1e400}\n'
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            os.write(handle, words * self.chance.randrange(1, 50))
        finally:
            os.close(handle)

    def socket(self, path):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)


def main(account, seed):
    become(account)
    hostile, found = Hostile("%s %s" % (account, seed)), []
    looked = 0.0
    while True:
        # Root makes and takes away places; one that it has just given away is the most interesting.
        if time.monotonic() - looked > 0.2 or not found:
            found, looked = places(), time.monotonic()
        own = [place for place in found if place.startswith("/opt/ds4")]
        for _act in range(30):
            hostile.act(hostile.chance.choice(own if own and hostile.chance.random() < 0.8 else found))
        time.sleep(hostile.chance.random() * 0.01)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
