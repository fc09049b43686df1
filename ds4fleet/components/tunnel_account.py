"""The account that opens tunnels to the engine's port and nothing else: sshd's drop-in and keys. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4agent.mac import accounts
from ds4fleet.access import users
from ds4fleet.components import base, scripts
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, UserPlan, Watched
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.public_keys import parse_key
from ds4fleet.layout import Paths

STAGE = "tunnel"
#: It needs a shell for sshd's ForceCommand to run in.
SHELL = "/bin/sh"


def watched(paths: Paths, named: Named) -> Watched:
    return Watched((paths.root, paths.libexec, paths.tunnel_wait, paths.sshd, paths.tunnel_keys))


def entries(plan: Decided) -> Part:
    """Raises OperatorError for an entry that is not a public key."""
    paths, settings = plan.paths, plan.settings
    keys = _keys(plan)
    if plan.role == "staging":
        gone = (paths.sshd, paths.tunnel_keys, paths.tunnel_wait)
        return Part([base.gone(path, stage=STAGE) for path in gone])
    name, port = settings.tunnel_user, settings.port
    drop_in = scripts.template(
        "sshd.conf.j2", user=name, port=port, keys_path=paths.tunnel_keys, wait_command=paths.tunnel_wait
    )
    files = [
        *(base.folder(path, stage=STAGE) for path in (paths.root, paths.libexec)),
        scripts.entry(paths.tunnel_wait, paths.root, stage=STAGE),
        base.file(paths.tunnel_keys, scripts.template("tunnel_keys.j2", keys=keys, port=port), stage=STAGE),
        base.file(paths.sshd, drop_in, stage=STAGE, validate="sshd"),
    ]
    real_name = accounts.REAL_NAMES["tunnel"]
    account = UserPlan(name, None, name, accounts.NO_HOME, SHELL, real_name, hidden=True)
    return Part(files, users=[account])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    return Removed(
        files=(paths.root, paths.sshd, paths.tunnel_keys),
        trees=(paths.libexec,),
        users=(str(settings["ds4_tunnel_user"]),),
    )


def _keys(plan: Decided) -> list[str]:
    keys = []
    for text in plan.settings.tunnel_keys:
        try:
            keys.append(parse_key(str(text)).commented)
        except ValueError as error:
            raise OperatorError(
                f"{plan.host}: ds4_tunnel_keys holds an entry that is not one public key:"
                f" {str(text)[:20]!r}: {error}",
                exit_code=EXIT_USAGE,
            ) from None
    return keys + users.keys_for(plan.host, plan.region, plan.settings.access)
