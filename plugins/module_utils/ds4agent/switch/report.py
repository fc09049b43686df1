# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""How far the last switch of a Mac is and who holds its lock, read from what ds4-switch wrote down."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import core, state

if TYPE_CHECKING:
    from .state import Places


def report(places: Places) -> dict[str, Any]:
    """{journal, lock, active, can_roll_back, outage_s}: journal without its order, None where there is none;
    outage_s only with a journal. Raises core.UnreadableError."""
    journal = core.readable(state.read_json(places.journal))
    found: dict[str, Any] = {
        "journal": {key: value for key, value in journal.items() if key != "order"} if journal else None,
        "lock": state.read_json(places.lock),
        "active": core.is_active(journal),
        "can_roll_back": os.path.exists(places.previous),
    }
    if journal:
        found["outage_s"] = core.outage_s(journal["events"])
    return found
