# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""The states of an upgrade or rollback: one vocabulary for plan, Mac, module, journal and report."""

from __future__ import annotations

import enum


class UpgradeState(str, enum.Enum):
    """A state by the word that files and JSON have for it."""

    # Of a rollout as a whole.
    PLANNED = "planned"
    PREFETCHING = "prefetching"
    PAUSED = "paused"
    FAILED = "failed"
    ABORTED = "aborted"
    PROMOTED = "promoted"

    # Of a Mac in a rollout. SWITCHING is one of a rollout as well: its first Mac has begun.
    PENDING = "pending"
    PREFETCHED = "prefetched"
    SWITCHING = "switching"
    DONE = "done"
    LOST = "lost"

    # Of the version switch on a Mac, in the order in which it goes through them.
    ARMED = "armed"
    DRAINING = "draining"
    BASELINE = "baseline"
    STOPPING = "stopping"
    STARTING = "starting"
    GATING = "gating"
    HOLDING = "holding"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    REVERTING = "reverting"

    # Of the version switch and of a Mac in a rollout.
    REVERTED = "reverted"
    STUCK = "stuck"

    __str__ = str.__str__

    @classmethod
    def _missing_(cls, value: object) -> UpgradeState | None:
        """The words that files of releases before 0.2.0 have."""
        return {"staging": cls.PREFETCHING, "staged": cls.PREFETCHED}.get(str(value))


#: Of a rollout.
OF_A_RUN = frozenset(
    {
        UpgradeState.PLANNED,
        UpgradeState.PREFETCHING,
        UpgradeState.SWITCHING,
        UpgradeState.PAUSED,
        UpgradeState.FAILED,
        UpgradeState.ABORTED,
        UpgradeState.PROMOTED,
    }
)
#: Of a rollout that another one must not start beside, and of one after which nothing more happens by itself.
UNFINISHED = frozenset(
    {UpgradeState.PLANNED, UpgradeState.PREFETCHING, UpgradeState.SWITCHING, UpgradeState.PAUSED}
)
ENDED = frozenset({UpgradeState.FAILED, UpgradeState.ABORTED, UpgradeState.PROMOTED})
#: Of a Mac in a rollout.
OF_A_MAC = frozenset(
    {
        UpgradeState.PENDING,
        UpgradeState.PREFETCHED,
        UpgradeState.SWITCHING,
        UpgradeState.DONE,
        UpgradeState.REVERTED,
        UpgradeState.LOST,
        UpgradeState.STUCK,
    }
)
#: Of a version switch. Before `stopping` nothing but new work was turned away.
HARMLESS = (UpgradeState.ARMED, UpgradeState.DRAINING, UpgradeState.BASELINE)
TOUCHED = (UpgradeState.STOPPING, UpgradeState.STARTING, UpgradeState.GATING, UpgradeState.HOLDING)
#: cancelled: nothing was touched. stuck: neither the new version nor the old one serves.
SETTLED = (UpgradeState.CONFIRMED, UpgradeState.REVERTED, UpgradeState.CANCELLED, UpgradeState.STUCK)
OF_A_SWITCH = (*HARMLESS, *TOUCHED, UpgradeState.REVERTING, *SETTLED)
