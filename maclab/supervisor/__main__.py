"""Start the supervisor of the lab in a folder: python -m maclab.supervisor FOLDER."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from maclab import kernel
from maclab.supervisor.core import OF_ITS_OWN, Supervisor


def main(folder: Path) -> NoReturn:
    """Leave the operator's namespaces and supervise the lab in `folder`; its pid goes to standard output."""
    told_r, told_w = os.pipe()
    os.set_inheritable(told_w, False)
    kernel.unshare(OF_ITS_OWN)
    pid = os.fork()
    if pid:
        os.close(told_w)
        # The operator may only go on when the supervisor answers.
        answered = os.read(told_r, 1)
        sys.stdout.write(json.dumps({"pid": pid if answered else 0}) + "\n")
        sys.stdout.flush()
        os._exit(0)
    os.close(told_r)
    os.setsid()
    kernel.mount("none", Path("/"), flags=kernel.MS_PRIVATE | kernel.MS_REC)
    kernel.mount("proc", Path("/proc"), "proc")
    kernel.sethostname("upstreams")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)

    supervisor = Supervisor(folder)
    gc.collect()
    gc.freeze()
    os.write(told_w, b"+")
    os.close(told_w)
    supervisor.init.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
