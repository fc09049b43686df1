"""`fab jump`: makes jump Macs lead to the Macs that serve, by playbooks.

What is on a jump Mac is part of its plan, and site.yml converges it. Here stands what a plan cannot hold:
its key, which is made once, and the change at its targets, which let that key in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ds4fleet import console
from ds4fleet.access import users
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.inventory.public_keys import parse_key
from ds4fleet.remote import playbook
from ds4fleet.tunnel import leading, letting_in
from ds4fleet.tunnel.leading import Jump

KEYS_PLAYBOOK = "jump"
PLAYBOOK = "site"


def jumps_of(fleet: Fleet, everyone: Fleet, host: str = "") -> list[Jump]:
    """The jump Macs of the selection. Raises OperatorError where there is none, and for one that leads
    nowhere."""
    chosen = [fleet.host(host)] if host else [one for one in fleet if leading.is_jump(one)]
    if not chosen:
        raise OperatorError("No Mac of the selection has ds4_jump_to.", exit_code=EXIT_USAGE)
    return [leading.jump_of(one, everyone) for one in chosen]


def let_in(before: users.Access, one: Jump, public_key: str) -> users.Access:
    """`before` with the jump Mac at its targets and nowhere else, by this key and no earlier one."""
    others = {user: entry for user, entry in before.items() if user != one.user}
    names = [target.name for target in one.targets]
    return users.with_user(others, one.user, parse_key(public_key), names)


def run(host: str = "", limit: str = "", yes: bool = False) -> int:
    """`fab jump`; returns an exit code."""
    everyone = Fleet.load()
    jumps = jumps_of(Fleet.load(limit or None), everyone, host)
    for one in jumps:
        leading.targets_of(one)
        for sentence in one.left_out:
            console.err.print(sentence, soft_wrap=True)
        how = " by distance" if one.by_distance else ""
        console.out.print(f"{one.host.name} -> {', '.join(t.name for t in one.targets)}{how}")
    if not console.confirm("Set this up, and let these Macs in over there?", yes=yes):
        return 1
    names = [one.host.name for one in jumps]
    what = f"jump {','.join(names)}"
    with tempfile.TemporaryDirectory() as folder:
        status = _playbook(KEYS_PLAYBOOK, names, {"__ds4_jump_keys_dir": folder})
        if status != 0:
            return status
        before = after = users.load()
        for one in jumps:
            after = let_in(after, one, (Path(folder) / f"{one.host.name}.pub").read_text())
    # All that they lead to, changed or not: an earlier run may have been cut off before it came there.
    wanted = {target.name for one in jumps for target in one.targets}
    wanted.update(users.affected(everyone, before, after), letting_in.pending(what))
    status = letting_in.commit(before, after, what, [one.name for one in everyone if one.name in wanted])
    return status or _playbook(PLAYBOOK, names, {})


def _playbook(name: str, hosts: Sequence[str], values: Mapping[str, str]) -> int:
    return playbook.run(name, hosts, values)
