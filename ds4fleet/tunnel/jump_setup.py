"""`fab jump`: makes jump Macs lead to the Macs that serve, by playbooks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4fleet import console
from ds4fleet.access import users
from ds4fleet.components import jump
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.remote import openssh, playbook
from ds4fleet.tunnel import letting_in
from ds4fleet.tunnel.asked import names_in, serving, spec_of

PLAYBOOK = "jump"
LOG = "/var/log/ds4/jump.log"
NEAREST = "nearest"


@dataclass(frozen=True)
class Jump:
    """A jump Mac and the Macs that it leads to, in order of preference or by measured distance."""

    host: Host
    targets: tuple[Host, ...]
    by_distance: bool

    @property
    def user(self) -> str:
        """Under which name its key stands in the list of who may open tunnels."""
        return f"jump-{self.host.name}"


def jumps_of(fleet: Fleet, everyone: Fleet, host: str = "") -> list[Jump]:
    """The jump Macs of the selection. `ds4_jump_to` names their targets (separated by commas), or `nearest`:
    every Mac meant to serve, by round trip from the jump Mac. Raises OperatorError where it is missing."""
    chosen = [fleet.host(host)] if host else [h for h in fleet if _is_jump(h)]
    found = []
    for one in chosen:
        asked = str(one.vars.get("ds4_jump_to") or "")
        if not asked:
            raise OperatorError(
                f"{one.name}: ds4_jump_to is not set; name the Mac that serves, or '{NEAREST}'.",
                exit_code=EXIT_USAGE,
            )
        if asked == NEAREST:
            targets = _reachable(serving(everyone))
        else:
            targets = [everyone.host(name) for name in names_in(asked)]
        if one.name in [target.name for target in targets]:
            raise OperatorError(f"{one.name}: ds4_jump_to leads to itself.", exit_code=EXIT_USAGE)
        found.append(Jump(one, tuple(targets), asked == NEAREST))
    if not found:
        raise OperatorError("No Mac of the selection has ds4_jump_to.", exit_code=EXIT_USAGE)
    return found


def setup_of(one: Jump) -> dict[str, Any]:
    """Files and jobs of a jump Mac. Raises OperatorError when a target's host key is not recorded."""
    settings = {**role_defaults(), **one.host.vars}
    root = str(settings["ds4_root"])
    configuration = jump.config(
        int(settings["ds4_port"]),
        [spec_of(target) for target in one.targets],
        one.by_distance,
        f"{root}/etc/jump/key",
        f"{root}/etc/jump_known_hosts",
    )
    lines = "".join(host_key_lines(target) for target in one.targets)
    user = str(settings["ds4_tunnel_user"])
    return jump.desired(root, user, LOG, configuration, lines)


def host_key_lines(host: Host) -> str:
    """The known_hosts lines of a host, from the operator's own file."""
    text = openssh.text_for(host.name, [host.known_hosts])
    if not text:
        raise OperatorError(
            f"{host.name}: its host key is not recorded; run playbooks/bootstrap.yml for it first."
        )
    return text


def let_in(before: users.Access, one: Jump, public_key: str) -> users.Access:
    """`before` with the jump Mac at its targets and nowhere else, by this key and no earlier one."""
    others = {user: entry for user, entry in before.items() if user != one.user}
    names = [target.name for target in one.targets]
    return users.with_user(others, one.user, users.parse_key(public_key), names)


def run(host: str = "", limit: str = "", yes: bool = False) -> int:
    """`fab jump`; returns an exit code."""
    everyone = Fleet.load()
    jumps = jumps_of(Fleet.load(limit or None), everyone, host)
    setups = {one.host.name: setup_of(one) for one in jumps}
    for one in jumps:
        how = " by distance" if one.by_distance else ""
        console.out.print(f"{one.host.name} -> {', '.join(t.name for t in one.targets)}{how}")
    if not console.confirm("Set this up, and let these Macs in over there?", yes=yes):
        return 1
    with tempfile.TemporaryDirectory() as folder:
        names = list(setups)
        what = f"jump {','.join(names)}"
        status = _playbook(names, {"__ds4_jump_keys_dir": folder})
        if status != 0:
            return status
        before = after = users.load()
        for one in jumps:
            after = let_in(after, one, (Path(folder) / f"{one.host.name}.pub").read_text())
        # All that they lead to, changed or not: an earlier run may have been cut off before it came there.
        wanted = {target.name for one in jumps for target in one.targets}
        wanted.update(users.affected(everyone, before, after), letting_in.pending(what))
        targets = [target.name for target in everyone if target.name in wanted]
        status = letting_in.commit(before, after, what, targets)
        return status or _playbook(names, {"__ds4_jump": setups})


def _reachable(hosts: Sequence[Host]) -> list[Host]:
    """Those whose host key is recorded; the others are named. Raises OperatorError when there is none."""
    known = []
    for host in hosts:
        try:
            host_key_lines(host)
        except OperatorError as error:
            console.err.print(f"left out: {error}", soft_wrap=True)
        else:
            known.append(host)
    if not known:
        raise OperatorError("No Mac that serves has a recorded host key; run playbooks/bootstrap.yml first.")
    return known


def _is_jump(host: Host) -> bool:
    return bool(host.vars.get("ds4_jump_to")) or host.vars.get("ds4_role") == "jump"


def _playbook(hosts: Sequence[str], variables: dict[str, Any]) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(variables, file)
        file.flush()
        return playbook.run(PLAYBOOK, hosts, Path(file.name))
