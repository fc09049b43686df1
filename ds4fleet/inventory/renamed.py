"""Public names that have another name now: an old one is refused by a sentence that says the new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: Variables of the inventory.
VARIABLES: Mapping[str, str] = {
    "ds4_host": "ds4_listen_address",
    "ds4_host_public_confirmed": "ds4_listen_public_confirmed",
    "ds4_drain_told_s": "ds4_drain_notice_s",
}


def refusals(names: Iterable[str]) -> list[str]:
    """A sentence for each variable that has an old name."""
    old = sorted(set(names) & VARIABLES.keys())
    return [f"{name} is called {VARIABLES[name]} now; rename it where it is set" for name in old]
