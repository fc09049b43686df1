"""What brings weights to a Mac and hands them on: the fetch under launchd, and the account that may do
nothing but serve chunks, behind sshd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ds4agent.mac import accounts
from ds4fleet.components import agent, base, scripts
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, UserPlan, Watched
from ds4fleet.layout import Paths

JOB = "fetch"
#: Before weights come.
STAGE = "storage"


def watched(paths: Paths, named: Named) -> Watched:
    label = paths.label(JOB)
    return Watched((*_folders(paths), former(paths), paths.seed_sshd, paths.plist(label)), (label,))


def entries(plan: Decided) -> Part:
    """There on a Mac whose weights may come from another one, gone from any other."""
    paths, label, user = plan.paths, plan.paths.label(JOB), plan.settings.seed_user
    gone = base.gone(former(paths), stage=STAGE, recursive=True)
    if not plan.relays:
        none = base.absent(label, paths.seed_sshd, stage=STAGE)
        return replace(none, files=[*none.files, gone])
    root, folder, log = paths.root, paths.transfer, paths.job_log(JOB)
    plist = base.plist(
        label,
        stage=STAGE,
        ProgramArguments=agent.argv(root, "fetch", folder),
        # At boot it goes on with an order that was cut off; without one it ends at once.
        RunAtLoad=True,
        KeepAlive={"SuccessfulExit": False},
        ThrottleInterval=10,
        ExitTimeOut=10,
        # Not Background: without weights nothing serves. It gives way to a server itself (mac.io_policy).
        ProcessType="Standard",
        StandardOutPath=log,
        StandardErrorPath=log,
    )
    command = " ".join(agent.argv(root, "serve-chunks", folder))
    drop_in = scripts.template("sshd-seed.conf.j2", user=user, keys_path=paths.seed_keys, command=command)
    files = [
        *(base.folder(path, stage=STAGE) for path in _folders(paths)),
        base.file(paths.seed_sshd, drop_in, stage=STAGE, validate="sshd"),
        plist,
        gone,
    ]
    return Part(files, [base.job(label, "loaded", [plist.path], stage=STAGE)], [account(user)])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    label = paths.label(JOB)
    return Removed(
        labels=(label,),
        files=(paths.root, paths.seed_sshd, paths.seed_keys, paths.plist(label)),
        trees=(paths.var, paths.libexec),
        data=(paths.job_log(JOB),),
        users=(str(settings["ds4_seed_user"]),),
    )


def account(name: str) -> UserPlan:
    """The account that hands out chunks: hidden, with a shell for sshd's command."""
    real_name = accounts.REAL_NAMES["seed"]
    return UserPlan(name, None, name, accounts.NO_HOME, "/bin/sh", real_name, hidden=True)


def former(paths: Paths) -> str:
    """Where releases before 0.2.0 kept the order of a transfer, its status and its keys: of one run each."""
    return f"{paths.var}/stage"


def _folders(paths: Paths) -> tuple[str, ...]:
    return (paths.root, paths.libexec, paths.var, paths.transfer)
