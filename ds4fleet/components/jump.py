"""What a jump Mac has on its disk: the supervisor's settings, its targets' host keys and its job. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ds4fleet.components import agent, base
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Targets, Watched
from ds4fleet.components.shapes import FileEntry
from ds4fleet.layout import Paths

STAGE = "tunnel"
JOB = "jump"
#: First local port of the tunnels behind the endpoint; no other program uses them on a jump Mac.
MEMBER_PORT = 18000


def folder(root: str) -> str:
    """Where its key is: `fab jump` makes it, root's own directory."""
    return f"{root}/etc/jump"


def key_path(root: str) -> str:
    """Its private key."""
    return f"{folder(root)}/key"


def settings_path(root: str) -> str:
    """What the supervisor reads."""
    return f"{root}/etc/jump.json"


def known_hosts_path(root: str) -> str:
    """Host keys of the targets."""
    return f"{root}/etc/jump_known_hosts"


def config(port: int, targets: Targets, root: str) -> dict[str, Any]:
    """What the supervisor reads: JSON-able.

    port         where the jump Mac's users find the engine
    root         the fleet's folder on the jump Mac
    """
    members = [
        replace(
            target,
            local_port=MEMBER_PORT + index,
            key_file=key_path(root),
            known_hosts=known_hosts_path(root),
            # From there the way is direct: bastions and ssh's configuration are the operator's.
            address=target.probe_at or target.address,
            ssh_args=(),
            executable="",
            own_config=False,
            via="",
            probe_at="",
        )
        for index, target in enumerate(targets.specs)
    ]
    return {
        "port": port,
        "by_distance": targets.by_distance,
        "targets": [member.to_dict() for member in members],
    }


def has_key(root: str, seen: Seen) -> bool:
    """Whether it has made the key that its targets let in."""
    key = (seen or base.NOTHING).files.get(key_path(root))
    return key is not None and key.kind == "file"


def watched(paths: Paths, named: Named) -> Watched:
    root = paths.root
    folders = (root, paths.libexec, paths.etc, folder(root), paths.run, f"{paths.run}/tmp", paths.logs)
    label = paths.label(JOB)
    files = (settings_path(root), known_hosts_path(root), _log(paths), paths.plist(label))
    return Watched((*folders, key_path(root), *files), (label,))


def entries(plan: Decided) -> Part:
    """There on a Mac that leads to others; gone from any other. Its job starts once it has a key."""
    root, label, leads = plan.paths.root, plan.paths.label(JOB), plan.jump
    if leads is None or leads.to is None:
        return base.absent(label, settings_path(root), known_hosts_path(root), stage=STAGE)
    if plan.targets is None:
        return Part()
    user = plan.settings.tunnel_user
    configuration = config(plan.settings.port, plan.targets, root)
    text = json.dumps(configuration, indent=1, sort_keys=True) + "\n"
    plist = _plist(plan.paths, user)
    files = [
        *(base.folder(path, stage=STAGE) for path in (root, f"{root}/libexec", f"{root}/etc", folder(root))),
        base.folder(f"{root}/run", stage=STAGE, owner=user),
        base.folder(f"{root}/run/tmp", stage=STAGE, owner=user, mode="0700"),
        base.folder(plan.paths.logs, stage=STAGE),
        base.file(_log(plan.paths), None, stage=STAGE, owner=user, mode="0640"),
        base.file(settings_path(root), text, stage=STAGE),
        base.file(known_hosts_path(root), plan.targets.host_keys, stage=STAGE),
        plist,
    ]
    restart_on = [settings_path(root), known_hosts_path(root), plist.path]
    jobs = [base.job(label, "started", restart_on, stage=STAGE)] if leads.has_key else []
    return Part(files, jobs)


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    return Removed(
        labels=(paths.label(JOB),),
        files=(paths.root, paths.plist(paths.label(JOB))),
        trees=(paths.etc, paths.run, paths.libexec),
        data=(paths.logs,),
    )


def _log(paths: Paths) -> str:
    return f"{paths.logs}/jump.log"


def _plist(paths: Paths, user: str) -> FileEntry:
    root, log = paths.root, _log(paths)
    return base.plist(
        paths.label(JOB),
        stage=STAGE,
        ProgramArguments=agent.argv(root, "jump", settings_path(root)),
        UserName=user,
        GroupName=user,
        EnvironmentVariables={
            "HOME": "/var/empty",
            "TMPDIR": f"{root}/run/tmp",
            "DS4_CODE": agent.code("jump"),
        },
        RunAtLoad=True,
        KeepAlive=True,
        ThrottleInterval=10,
        ExitTimeOut=10,
        ProcessType="Interactive",
        StandardOutPath=log,
        StandardErrorPath=log,
    )
