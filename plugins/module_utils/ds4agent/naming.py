# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What an installation is called on a Mac: all follows from its root, whose last part is the prefix.

The prefix of a fleet is `ds4`. A proof puts another one on a Mac, with a prefix of its own, for a while.
"""

from __future__ import annotations

import os

ROOT = "/opt/ds4"
PROOF_ROOT = "/opt/ds4-prove"
#: The values of ds4_root.
ROOTS = (ROOT, PROOF_ROOT)
#: The labels of a fleet's jobs begin with it.
_DOMAIN = "com.ds4fleet"


def prefix(root: str) -> str:
    """What names outside the root begin with: `ds4`, `ds4-prove`."""
    return os.path.basename(root)


def label(root: str, job: str) -> str:
    """The label of a launchd job: com.ds4fleet.server, com.ds4fleet-prove.server."""
    return "%s%s.%s" % (_DOMAIN, prefix(root)[len(prefix(ROOT)) :], job)


def plist(of: str) -> str:
    """The property list of the job with this label."""
    return "/Library/LaunchDaemons/%s.plist" % of


def transfer(root: str) -> str:
    """Where the order of a transfer of weights, its status and the keys are."""
    return root + "/var/prefetch"


def seed_keys(root: str) -> str:
    """Public keys of the Macs of a transfer that goes on, for sshd."""
    return "/etc/ssh/%s_seed_keys" % prefix(root)


def volumes(root: str) -> str:
    """The lines of /etc/fstab for the volumes, as an update of macOS may drop fstab."""
    return root + "/boot/volumes.conf"


def logs(root: str) -> str:
    """The directory of the logs."""
    return "/var/log/" + prefix(root)


def job_log(root: str, job: str) -> str:
    """The log of a job of root's that comes before the directory: mounts, wired, fetch."""
    return "/var/log/%s-%s.log" % (prefix(root), job)
