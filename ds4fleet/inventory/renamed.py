"""Public names that have another name now: an old one is refused by a sentence that says the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Variables of the inventory.
VARIABLES: Mapping[str, str] = {
    "ds4_host": "ds4_listen_address",
    "ds4_host_public_confirmed": "ds4_listen_public_confirmed",
    "ds4_drain_told_s": "ds4_drain_notice_s",
    **{
        f"ds4_stage_{name}": f"ds4_prefetch_{name}"
        for name in (
            "action",
            "address",
            "chunk_mib",
            "link_mbps",
            "region_rate_mbps",
            "seed_slots",
            "token",
            "wait",
            "window",
        )
    },
    "ds4_weights_prune_staged": "ds4_weights_prune_prefetched",
}
#: Values of a variable.
VALUES: Mapping[tuple[str, str], str] = {("ds4_role", "stage"): "staging"}


def refusals(settings: Mapping[str, Any]) -> list[str]:
    """A sentence for each variable that has an old name or an old value."""
    old = sorted(settings.keys() & VARIABLES.keys())
    return [
        *(f"{name} is called {VARIABLES[name]} now; rename it where it is set" for name in old),
        *(
            f"{name} {value} is called {new} now; set {name}: {new}"
            for (name, value), new in VALUES.items()
            if settings.get(name) == value
        ),
    ]
