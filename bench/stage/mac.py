"""One receiver of the measurement: `fetch FOLDER` works on its order, `seed FOLDER` answers others."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import ansible.module_utils

ROLE = Path(__file__).resolve().parents[2] / "roles" / "ds4"
ansible.module_utils.__path__.append(str(ROLE / "module_utils"))

from ansible.module_utils import ds4_fetch, ds4_progress, ds4_seed  # noqa: E402


def main() -> None:
    """Until the order is done, or the other side hangs up."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    if (folder / "dead").exists():
        sys.exit("this Mac is dead")
    (folder / "pids" / str(os.getpid())).touch()
    if what == "seed":
        ds4_seed.main(str(folder))
    order = json.loads((folder / "order.json").read_text())

    def dial(peer: dict[str, str]) -> list[str]:
        return [sys.executable, __file__, "seed", str(folder.parent / peer["name"])]

    with ds4_progress.State(str(folder), order) as state:
        ds4_fetch.Fetch(str(folder), order, state, dial).run()
        state.values["state"] = "done"


if __name__ == "__main__":
    main()
