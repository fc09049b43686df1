# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Weights by the engine's own download_model.sh; what it leaves is judged like any other file."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from ..mac import output
from .install import Installer, InstallError, result
from .proof import judge, sha256

if TYPE_CHECKING:
    from ..shapes import Placed, Wanted

NAME = "download_model.sh"
TAIL_LINES, TAIL_BYTES = 10, 65536
ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C", "LC_ALL": "C", "HOME": "/var/root"}


class Script:
    """That of the release in `release_dir`; `target_name` is its word for a model."""

    def __init__(self, installer: Installer, release_dir: str, target_name: str, timeout_s: float) -> None:
        self.installer = installer
        self.release_dir = release_dir
        self.target_name = target_name
        self.timeout_s = timeout_s

    def receive(self, wanted: Wanted) -> Placed:
        """In the place of fetch.Fetch.receive."""
        done = output.run(
            ["/bin/sh", os.path.join(self.release_dir, NAME), self.target_name],
            self.timeout_s,
            max_bytes=TAIL_BYTES,
            only_end=True,
            cwd=self.release_dir,
            env=dict(ENVIRONMENT, DS4_GGUF_DIR=self.installer.folder),
            stderr=subprocess.STDOUT,
        )
        if done.cut:
            raise InstallError("%s took longer than %d s; it resumes" % (NAME, self.timeout_s))
        source, path = "%s %s" % (NAME, self.target_name), wanted["path"]
        if not os.path.isfile(path):
            tail = " / ".join(done.stdout.strip().splitlines()[-TAIL_LINES:])
            raise InstallError(
                "%s ended with status %d and without %s: %s" % (source, done.returncode, wanted["name"], tail)
            )
        digest = sha256(path)
        wrong = judge(path, wanted, digest)
        if wrong:
            raise self.installer.refuse(wanted, path, wrong, source)
        self.installer.settle(path, digest)
        moved = wanted["bytes"]
        came: Placed = result(wanted, "fetched", digest)
        return {**came, "fetched_bytes": moved, "hashed_bytes": moved, "source": source}
