"""Where jump Macs lead: the Macs that the inventory names, and what a tunnel to them needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ds4fleet.components.base import Targets
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.remote import openssh
from ds4fleet.tunnel.selection import names_in, serving, spec_of

NEAREST = "nearest"


@dataclass(frozen=True)
class Jump:
    """A jump Mac and the Macs that it leads to, in order of preference or by measured distance.

    left_out: sentences about Macs that `nearest` would mean too.
    """

    host: Host
    targets: tuple[Host, ...]
    by_distance: bool
    left_out: tuple[str, ...] = ()

    @property
    def user(self) -> str:
        """Under which name its key stands in the list of who may open tunnels."""
        return f"jump-{self.host.name}"


def is_jump(host: Host) -> bool:
    """Whether the inventory makes it a jump Mac."""
    return host.role == "jump" or (host.role == "auto" and bool(host.jump_to))


def jump_of(host: Host, everyone: Fleet) -> Jump:
    """`ds4_jump_to` of a Mac: names separated by commas, or `nearest` for every Mac meant to serve, by round
    trip from the jump Mac. Raises OperatorError where it is missing or leads nowhere."""
    asked = host.jump_to
    if not asked:
        raise OperatorError(
            f"{host.name}: ds4_jump_to is not set; name the Mac that serves, or '{NEAREST}'.",
            exit_code=EXIT_USAGE,
        )
    if not is_jump(host):
        raise OperatorError(
            f"{host.name}: its ds4_role is {host.role}, so it leads to no other Mac; set"
            " ds4_role: jump, or drop ds4_jump_to.",
            exit_code=EXIT_USAGE,
        )
    if asked == NEAREST:
        targets, left_out = _reachable(serving(everyone))
        return Jump(host, targets, True, left_out)
    found = tuple(everyone.host(name) for name in names_in(asked))
    if host.name in [target.name for target in found]:
        raise OperatorError(f"{host.name}: ds4_jump_to leads to itself.", exit_code=EXIT_USAGE)
    return Jump(host, found, False)


def targets_of(one: Jump) -> Targets:
    """What its plan needs of them. Raises OperatorError when a target's host key is not recorded."""
    specs = tuple(spec_of(target) for target in one.targets)
    return Targets(specs, one.by_distance, "".join(host_key_lines(target) for target in one.targets))


def known_targets(host: Host, everyone: Callable[[], Fleet]) -> tuple[Targets | None, list[str]]:
    """The targets of any Mac and sentences about what is missing for them: None where it leads to none, and
    where one of them cannot be reached, as its plan then leaves its tunnels as they are."""
    if not is_jump(host) or not host.jump_to:
        return None, []
    try:
        return targets_of(jump_of(host, everyone())), []
    except OperatorError as error:
        return None, [f"its tunnels stay as they are: {error.sentence}"]


def host_key_lines(host: Host) -> str:
    """The known_hosts lines of a host, from the operator's own file."""
    text = openssh.text_for(host.name, [host.known_hosts])
    if not text:
        raise OperatorError(
            f"{host.name}: its host key is not recorded; run playbooks/bootstrap.yml for it first."
        )
    return text


def _reachable(hosts: Sequence[Host]) -> tuple[tuple[Host, ...], tuple[str, ...]]:
    """Those whose host key is recorded, and sentences about the others. Raises OperatorError when there is
    none."""
    known, left_out = [], []
    for host in hosts:
        try:
            host_key_lines(host)
        except OperatorError as error:
            left_out.append(f"left out: {error}")
        else:
            known.append(host)
    if not known:
        raise OperatorError("No Mac that serves has a recorded host key; run playbooks/bootstrap.yml first.")
    return tuple(known), tuple(left_out)
