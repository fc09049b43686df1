"""A shell on a simulated Mac, for tests of the lab itself."""

from __future__ import annotations

import subprocess

from maclab import Lab


class Shell:
    """Root's shell on one Mac, with the search path of a launchd job; `environment` is added to it."""

    def __init__(self, lab: Lab, host: str, environment: str = "") -> None:
        self.lab = lab
        self.host = host
        self.before = f"export PATH=/usr/bin:/bin:/usr/sbin:/sbin {environment}; "

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.lab.exec(self.host, ["/bin/bash", "-c", self.before + script])

    def ok(self, script: str) -> str:
        """What the script prints; the test fails when it ends with anything but 0."""
        done = self.sh(script)
        assert done.returncode == 0, f"{script}: {done.returncode}: {done.stdout}{done.stderr}"
        return str(done.stdout)
