# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What is at a path: the description that an observation holds and that files are compared with."""

from __future__ import absolute_import, annotations, division, print_function

import grp
import hashlib
import os
import pwd
import stat

__metaclass__ = type

#: Configuration is small; weights are proven by their stamps and never hashed here.
HASHED_FILE_BYTES = 4 << 20


def name_of(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def describe(path):
    """Kind, content hash, mode, owner and target of one path; links are not followed at its end."""
    entry = {"kind": "absent", "sha256": None, "mode": None, "owner": None, "group": None, "target": None}
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return entry
    entry.update(
        mode="%04o" % stat.S_IMODE(found.st_mode),
        owner=name_of(pwd.getpwuid, found.st_uid),
        group=name_of(grp.getgrgid, found.st_gid),
    )
    if stat.S_ISLNK(found.st_mode):
        entry.update(kind="link", target=os.readlink(path))
    elif stat.S_ISDIR(found.st_mode):
        entry["kind"] = "dir"
    else:
        entry["kind"] = "file"
        if stat.S_ISREG(found.st_mode) and found.st_size <= HASHED_FILE_BYTES:
            with open(path, "rb") as stream:
                entry["sha256"] = hashlib.sha256(stream.read()).hexdigest()
    return entry
