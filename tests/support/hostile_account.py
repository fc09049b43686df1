"""A service account that was taken over: plants and swaps whatever it may, for as long as it lives.

Runs on a simulated Mac, as root, which it gives up first: hostile_account.py ACCOUNT SEED plant|swap|both. It
looks for directories that its account may write to, wherever they are.
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

#: Below these it looks for a place to write to, each so often: root makes and takes away places of ours, and
#: one that it has just given away is the most interesting. Programs and settings must never be among them.
LOOKS = (
    (("/opt/ds4",), 0.1),
    (
        (
            "/private/etc",
            "/private/tmp",
            "/private/var/log",
            "/private/var/root",
            "/private/var/run",
            "/private/var/tmp",
            "/Library",
            "/Users",
        ),
        3,
    ),
)
#: Where its links lead: what must stay as it is, also what is not there and must not come to be.
FOLDERS = (
    "/private/etc",
    "/private/var/root",
    "/Library/LaunchDaemons",
    "/opt/ds4/libexec",
    "/opt/ds4/models",
    "/opt/ds4/var/switch",
)
FILES = (
    "/private/etc/hostile-secret",
    "/private/etc/hostile-new",
    "/private/etc/sudoers",
    "/private/var/root/hostile-new",
    "/Library/LaunchDaemons/com.ds4fleet.server.plist",
    "/opt/ds4/etc/server.conf",
    "/opt/ds4/libexec/ds4-start",
    "/dev/zero",
    "/dev/stdin",
)
#: What it knows root's programs to make, read or remove, by the beginning of the place.
KNOWN = {
    "/opt/ds4/run": ("tmp", "drain.json", "drain.json.new", "server.running.conf", "server.running.conf.new"),
    "/opt/ds4/kv": (
        "0123456789abcdef0123456789abcdef01234567.kv",
        "0123456789abcdef0123456789abcdef01234567.kv.tmp.77",
    ),
    "/opt/ds4/etc": ("key", "key.pub", "jump"),
    "/opt/ds4/engine": ("ds4-server", "download_model.sh", "Makefile", "metal", "tree"),
    "/": (
        "ds4-push-0123456789ab.sock",
        ".com.apple.dt.CommandLineTools.installondemand.in-progress",
        ".metadata_never_index",
    ),
}
HUGE_BYTES = 1 << 40
DEPTH = 60
#: At most for so long it swaps one path.
SWAPS_S = 0.1
#: On average half of this between two things that it does, and behind others: root's programs are to get on.
PAUSE_S = 0.02
NICE = 5
#: Names in a directory beyond which it clears up: it is to be quick, not to fill a disk.
MANY = 15


def become(account):
    """Gives up root."""
    facts = pwd.getpwnam(account)
    os.setgroups([])
    os.setgid(facts.pw_gid)
    os.setuid(facts.pw_uid)
    os.umask(0)


def places(roots):
    """Directories that this account may write to, mostly its own."""
    found = []
    for root in roots:
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

    def path(self, place):
        """What to do something to in a place: mostly what is known, else what happens to be there."""
        there = os.listdir(place)
        if len(there) > MANY:
            self.vanish(os.path.join(place, self.chance.choice(there)))
        known = next(KNOWN[start] for start in KNOWN if place.startswith(start))
        names = there if there and self.chance.random() < 0.3 else known
        return os.path.join(place, self.chance.choice(names))

    def plant(self, path):
        """Something else than a file of ours, at once."""
        if not os.path.lexists(path) or self.chance.random() < 0.7:
            self.vanish(path)
        kinds = (self.link, self.link, self.fifo, self.folder, self.deep, self.huge, self.text, self.socket)
        self.chance.choice(kinds)(path)

    def swap(self, path):
        """What is there and a link or FIFO, to and fro, as fast as it goes; it has to be mended meanwhile."""
        aside, until = path + ".aside", time.monotonic() + self.chance.random() * SWAPS_S
        dwell_s = self.chance.choice((0, 0, 0.0002, 0.002))
        if not os.path.lexists(path):
            os.mkdir(path)
        while time.monotonic() < until:
            self.try_to(os.chmod, path, self.chance.choice((0o777, 0o700)))
            self.try_to(os.rename, path, aside)
            self.try_to(self.chance.choice((self.link_of_its_kind, self.link_of_its_kind, self.fifo)), path)
            time.sleep(dwell_s)
            self.try_to(os.unlink, path)
            self.try_to(os.rename, aside, path)
            time.sleep(dwell_s)

    @staticmethod
    def try_to(act, *arguments):
        with contextlib.suppress(OSError):
            act(*arguments)

    def vanish(self, path):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)

    def link(self, path):
        os.symlink(self.chance.choice(FOLDERS + FILES), path)

    def link_of_its_kind(self, path):
        folder = os.path.isdir(path + ".aside")
        os.symlink(self.chance.choice(FOLDERS if folder else FILES), path)

    def fifo(self, path):
        os.mkfifo(path)

    def folder(self, path):
        os.mkdir(path)
        self.link(os.path.join(path, self.chance.choice(KNOWN["/opt/ds4/run"])))

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


def main(account, seed, how):
    become(account)
    os.nice(NICE)
    hostile = Hostile("%s %s %s" % (account, seed, how))
    found = {}
    while True:
        for roots, each_s in LOOKS:
            at, _places = found.get(roots, (0.0, []))
            if time.monotonic() - at > each_s:
                found[roots] = (time.monotonic(), places(roots))
        ours, theirs = (found[roots][1] for roots, _each in LOOKS)
        place = hostile.chance.choice(ours if ours and hostile.chance.random() < 0.8 else theirs)
        with contextlib.suppress(OSError):
            path = hostile.path(place)
            if how == "swap" or (how == "both" and hostile.chance.random() < 0.5):
                # What root owns in a directory of the account's, where that is this one.
                known = os.access("/opt/ds4/run", os.W_OK) and hostile.chance.random() < 0.5
                hostile.swap("/opt/ds4/run/tmp" if known else path)
            else:
                hostile.chance.choice((hostile.plant, hostile.plant, hostile.vanish))(path)
        time.sleep(hostile.chance.random() * PAUSE_S)


if __name__ == "__main__":
    main(*sys.argv[1:4])
