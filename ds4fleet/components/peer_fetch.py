"""What brings weights to a Mac and hands them on: the fetch under launchd, and the account that may do
nothing but serve chunks, behind sshd."""

from __future__ import annotations

import plistlib
from typing import Any

from ds4agent.mac import accounts
from ds4fleet.components import agent, base
from ds4fleet.layout import ROLE, Paths

LABEL_FETCH = "com.ds4fleet.fetch"
#: Where the order, its status and the keys are on a Mac (weights.fetch.FOLDER).
FOLDER = "/opt/ds4/var/stage"
#: Public keys of the Macs of the run that goes on, written by ds4_stage and emptied afterwards.
KEYS = "/etc/ssh/ds4_seed_keys"
SSHD = "/etc/ssh/sshd_config.d/051-ds4-seed.conf"
STATE = ("order.json", "status.json", "control", "key", "key.pub", "known_hosts", "token.env", "slots")
#: The stage of the role that its files belong to.
STAGE = "storage"


def watched(root: str) -> dict[str, list[str]]:
    """Paths and labels to observe on every Mac, in the order in which they would be made."""
    kept = [f"{FOLDER}/{name}" for name in STATE]
    files = [*_dirs(root), *kept, SSHD, KEYS, Paths.plist(LABEL_FETCH)]
    return {"files": files, "labels": [LABEL_FETCH]}


def entries(root: str, seed_user: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(files, jobs) in the form of a plan: the programs, the job, what the account may do."""
    plist = Paths.plist(LABEL_FETCH)
    job = plistlib.dumps(
        {
            "Label": LABEL_FETCH,
            "ProgramArguments": agent.argv(root, "fetch"),
            # At boot it goes on with an order that was cut off; without one it ends at once.
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ExitTimeOut": 10,
            "ProcessType": "Background",
            "LowPriorityIO": True,
            "StandardOutPath": "/var/log/ds4-fetch.log",
            "StandardErrorPath": "/var/log/ds4-fetch.log",
        },
        sort_keys=True,
    ).decode()
    drop_in = (ROLE / "templates" / "sshd-seed.conf.j2").read_text(encoding="utf-8")
    for name, value in {
        "user": seed_user,
        "keys_path": KEYS,
        "command": " ".join(agent.argv(root, "serve-chunks")),
    }.items():
        drop_in = drop_in.replace("{{ " + name + " }}", value)
    files = [base.entry(path, "dir", mode="0755") for path in _dirs(root)]
    files += agent.entries(root)
    files.append(base.entry(SSHD, "file", content=drop_in, mode="0644", validate="sshd"))
    files.append(base.entry(plist, "file", content=job, mode="0644", validate="plist"))
    loaded = base.job(LABEL_FETCH, "loaded", [plist], stage=STAGE)
    return [{**file, "stage": STAGE} for file in files], [loaded]


def _dirs(root: str) -> list[str]:
    return [f"{root}/libexec", f"{root}/var", FOLDER]


def account(seed_user: str) -> dict[str, Any]:
    """The account of ds4-seed in the form of a plan's `accounts`: hidden, with a shell for sshd's command."""
    user = {
        "name": seed_user,
        "uid": None,
        "gid_name": seed_user,
        "home": accounts.NO_HOME,
        "shell": "/bin/sh",
        "real_name": accounts.REAL_NAMES["seed"],
        "hidden": True,
    }
    return {"users": [user], "groups": [{"name": seed_user, "gid": None}]}
