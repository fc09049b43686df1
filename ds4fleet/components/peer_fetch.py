"""What brings weights to a Mac and hands them on: the fetch under launchd, and the account that may do
nothing but serve chunks, behind sshd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4agent.mac import accounts
from ds4fleet.components import agent, base, scripts
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, UserPlan, Watched
from ds4fleet.layout import Paths

LABEL_FETCH = "com.ds4fleet.fetch"
#: Where the order, its status and the keys are on a Mac (weights.fetch.FOLDER).
FOLDER = "/opt/ds4/var/stage"
#: Public keys of the Macs of the run that goes on, written by ds4_stage and emptied afterwards.
KEYS = "/etc/ssh/ds4_seed_keys"
SSHD = "/etc/ssh/sshd_config.d/051-ds4-seed.conf"
LOG = "/var/log/ds4-fetch.log"
#: Before weights come.
STAGE = "storage"


def watched(paths: Paths, named: Named) -> Watched:
    return Watched((*_folders(paths.root), SSHD, Paths.plist(LABEL_FETCH)), (LABEL_FETCH,))


def entries(plan: Decided) -> Part:
    """There on a Mac whose weights may come from another one, gone from any other."""
    if not plan.relays:
        return base.absent(LABEL_FETCH, SSHD, stage=STAGE)
    root, user = plan.paths.root, plan.settings.seed_user
    plist = base.plist(
        LABEL_FETCH,
        stage=STAGE,
        ProgramArguments=agent.argv(root, "fetch"),
        # At boot it goes on with an order that was cut off; without one it ends at once.
        RunAtLoad=True,
        KeepAlive={"SuccessfulExit": False},
        ThrottleInterval=10,
        ExitTimeOut=10,
        # Not Background: without weights nothing serves. It gives way to a server itself (mac.io_policy).
        ProcessType="Standard",
        StandardOutPath=LOG,
        StandardErrorPath=LOG,
    )
    drop_in = scripts.template(
        "sshd-seed.conf.j2", user=user, keys_path=KEYS, command=" ".join(agent.argv(root, "serve-chunks"))
    )
    files = [
        *(base.folder(path, stage=STAGE) for path in _folders(root)),
        base.file(SSHD, drop_in, stage=STAGE, validate="sshd"),
        plist,
    ]
    return Part(files, [base.job(LABEL_FETCH, "loaded", [plist.path], stage=STAGE)], [account(user)])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, object]) -> Removed:
    root = str(settings["ds4_root"])
    return Removed(
        labels=(LABEL_FETCH,),
        files=(root, SSHD, KEYS, Paths.plist(LABEL_FETCH)),
        trees=(f"{root}/var", f"{root}/libexec"),
        data=(LOG,),
        users=(str(settings["ds4_seed_user"]),),
    )


def account(name: str) -> UserPlan:
    """The account that hands out chunks: hidden, with a shell for sshd's command."""
    real_name = accounts.REAL_NAMES["seed"]
    return UserPlan(name, None, name, accounts.NO_HOME, "/bin/sh", real_name, hidden=True)


def _folders(root: str) -> tuple[str, ...]:
    return (root, f"{root}/libexec", f"{root}/var", FOLDER)
