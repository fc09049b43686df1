"""A planned rollout as its playbook gets it: derived from the plan, written as JSON once and read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ds4agent.model import ModelError, Section

#: The extra variable of the playbooks that holds it.
VARIABLE = "__ds4_rollout"
#: The form that this release writes and reads.
SCHEMA = 1
WHAT = "the rollout"


@dataclass(frozen=True)
class RolloutOrder(Section):
    """Which Macs are switched by which run, in which order.

    folder: of plan and journal on the controller; "" without a plan, where locks are taken or given back.
    waves: how many Macs are switched at once, one number after the other. take_over: whether a lock that
    another run holds is taken. kind: upgrade or rollback.
    """

    run_id: str
    owner: str
    hosts: tuple[str, ...] = ()
    waves: tuple[int, ...] = ()
    kind: str = "upgrade"
    folder: str = ""
    take_over: bool = False
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, value: object, what: str = WHAT) -> Self:
        """The order of a playbook's variable. Raises ModelError for one of another release, and for values
        that it cannot have."""
        schema = value.get("schema", SCHEMA) if isinstance(value, Mapping) else SCHEMA
        if schema != SCHEMA or isinstance(schema, bool):
            raise ModelError(
                f"schema of {what} is {schema!r}, and this ds4-fleet reads {SCHEMA}: end it with the release"
                " that planned it, or plan it again"
            )
        return super().from_json(value, what)

    def variables(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The variables of the playbook: the order, and what the operator asked for."""
        return {**asked, VARIABLE: self.to_json()}
