# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What a Mac says of its last version switch, as ds4_switch and ds4_switch_info tell it: read once where it
arrives, typed from there on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from .border import plain
from .model import ModelError, RolloutLock, Section
from .upgrade_state import OF_A_SWITCH, UpgradeState

#: The form of a journal that this release writes and reads.
SCHEMA = 1
#: How a sentence names it.
WHAT = "the report of the last switch"


@dataclass(frozen=True)
class SwitchJournal(Section):
    """How far a switch is, without its order.

    verdict, reason: of the gate or of the end. cause: why it went back (cut, told, unconfirmed, failed).
    before, after: figures of the two versions.
    """

    id: str
    run_id: str
    phase: str
    reason: str = ""
    verdict: Optional[str] = None
    cause: Optional[str] = None
    before: Optional[Mapping[str, object]] = None
    after: Optional[Mapping[str, object]] = None
    schema: int = SCHEMA

    @property
    def state(self) -> UpgradeState:
        return UpgradeState(self.phase)


@dataclass(frozen=True)
class SwitchReport(Section):
    """outage_s: seconds for which the last switch had no server; None while it has none."""

    active: bool
    journal: Optional[SwitchJournal] = None
    lock: Optional[RolloutLock] = None
    can_roll_back: bool = False
    outage_s: Optional[float] = None

    @classmethod
    def from_json(cls, value: object, what: str = WHAT) -> SwitchReport:
        """What a module answered. Raises ModelError, also for a journal of another schema or phase."""
        journal = value.get("journal") if isinstance(value, Mapping) else None
        schema = journal.get("schema", SCHEMA) if isinstance(journal, Mapping) else SCHEMA
        if schema != SCHEMA or isinstance(schema, bool):
            raise ModelError(
                "schema of the journal in %s is %r, and this ds4-fleet reads %d: end that switch with the"
                " release that began it" % (what, schema, SCHEMA)
            )
        found: SwitchReport = super().from_json(value, what)
        if found.journal is not None and found.journal.phase not in OF_A_SWITCH:
            raise ModelError(
                "phase of the journal in %s is %s, which a switch never has"
                % (what, plain.line(repr(found.journal.phase), 60))
            )
        return found
