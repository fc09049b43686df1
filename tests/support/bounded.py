"""Code in a process with little memory and little time, so that what knows no limit hangs no test."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 400 * 1024 * 1024
TIME_S = 60
#: What the code may count on.
HEAD = """
import json, sys
given = json.loads(sys.argv[1])
tell = lambda value: print("TOLD" + json.dumps(value))
"""


def run(code: str, given: Any = None) -> Any:
    """What `code` gives to its function `tell`. It finds `given` and the checkout's packages.
    Fails with what it said when it told nothing."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code, json.dumps(given)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "plugins" / "module_utils"))),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIME_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES)),
        check=False,
    )
    told = [line[4:] for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert len(told) == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    return json.loads(told[0])
