"""What an engine refuses to do with a family of models, held against what the inventory asks of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ds4fleet.catalogue.types import Family
from ds4fleet.plan.known import Known
from ds4fleet.plan.types import HostPlan

#: The only value that is as good as none.
FULL_POWER = 100


def with_options(plan: HostPlan, known: Known) -> HostPlan:
    """The plan with a refusal for each option that its model's engine refuses, and a word on idle ones."""
    if plan.model is None or plan.role not in ("serve", "stream"):
        return plan
    family = known.catalogue.families[plan.model.family]
    return plan.saying(refusals=_refused(family, known), warnings=_idle(family, known))


def _refused(family: Family, known: Known) -> Iterator[str]:
    refuses = family.refuses
    power = known.read.auto_int("ds4_power_percent", least=1, most=FULL_POWER)
    if power not in (None, FULL_POWER) and "--power" in refuses:
        yield f"ds4_power_percent is {power}, but {refuses['--power']}; set it to {FULL_POWER} or null here"
    for word in _extra(known):
        if word in refuses:
            yield f"ds4_server_extra_args asks for {word}, but {refuses[word]}; remove it here"


def _idle(family: Family, known: Known) -> Iterator[str]:
    for word in _extra(known):
        if word in family.ignores:
            yield f"ds4_server_extra_args asks for {word}, which the engine leaves out with {family.title}"


def _extra(known: Known) -> list[str]:
    return [word.split("=", 1)[0] for word in known.read.words("ds4_server_extra_args")]
