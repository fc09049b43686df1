"""What the catalogue knows to be wrong with a Mac's engine, and what follows from it for this Mac. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from ds4fleet.access import users
from ds4fleet.catalogue.engines import Advisory, Answer, Engine
from ds4fleet.plan.known import Known
from ds4fleet.plan.types import HostPlan
from ds4fleet.sizing.policy import think_max_tokens


def with_advisories(plan: HostPlan, known: Known, engine: Engine) -> HostPlan:
    """The plan with the defects of its engine that its use meets: refused or warned of as `severities` of the
    catalogue says, and what another pin would cure."""
    built = plan.engine is not None and plan.engine.built
    if plan.role not in ("serve", "stream") or engine.known_bad or not (engine.known or built):
        return plan
    catalogue, use = known.catalogue, uses(plan, known, engine)
    concerned = catalogue.advisories_of(engine)
    met = [catalogue.advisories[name] for name in concerned if catalogue.advisories[name].holds_for(use)]
    reach = reached_by_several(plan, known)
    answers = {one.id: _answer(one, known, bool(reach), sure=concerned[one.id] == "yes") for one in met}
    refused = [one for one in met if answers[one.id] == "refuse"]
    warned = [one for one in met if answers[one.id] == "warn"]
    cures = _cures(engine, met, known) if refused or warned else []
    return plan.saying(
        refusals=[_refusal(one, engine, known, reach) for one in refused],
        warnings=[*_sentences(engine, warned, concerned), *cures],
    )


def uses(plan: HostPlan, known: Known, engine: Engine) -> set[str]:
    """The conditions of advisories (ds4fleet.catalogue.engines.CONDITIONS) that hold on this Mac."""
    catalogue, family = known.catalogue, plan.model.family if plan.model else ""
    deep = catalogue.generation(engine.generation).kv.cold_max_tokens
    layout = catalogue.families[family].layout if family in catalogue.families else ""
    holds = {
        "several-users": bool(reached_by_several(plan, known)),
        "deep-contexts": plan.context > deep,
        "kv": known.settings.kv_budget_mib > 0,
        "streaming": plan.mode == "streaming",
        "batched-sessions": known.settings.sessions > 1,
        "think-max": plan.context >= think_max_tokens(),
        "v41": layout == "deepseek41",
    }
    return {name for name, does in holds.items() if does}


def reached_by_several(plan: HostPlan, known: Known) -> str:
    """Why more than one user reaches the engine; "" when one does, on the Mac's loopback address."""
    if known.settings.host != "localhost" and not ipaddress.IPv4Address(known.settings.host).is_loopback:
        return f"ds4_listen_address is {known.settings.host}"
    keys = {str(key) for key in known.read.names("ds4_tunnel_keys")}
    let_in = users.keys_for(plan.host, plan.region, known.variables.get("ds4_access"))
    if len(keys) + len(let_in) > 1:
        return f"{len(keys) + len(let_in)} keys of ds4_tunnel_keys and ds4_access open a tunnel"
    return ""


def _answer(advisory: Advisory, known: Known, several: bool, *, sure: bool) -> Answer:
    """What is not certain is never refused for."""
    severity = known.catalogue.severities[advisory.severity]
    answer = severity.several_users if several else severity.one_user
    certain = sure and advisory.confidence == "A"
    return "warn" if answer == "refuse" and not certain else answer


def _refusal(advisory: Advisory, engine: Engine, known: Known, reach: str) -> str:
    later = [one for one in known.catalogue.engines.values() if one.date > engine.date and not one.known_bad]
    without = [one for one in later if advisory.id not in known.catalogue.advisories_of(one)]
    first = min(without, key=lambda one: one.date, default=None)
    to_do = f"pin {first.short} ({first.date}) or a later one" if first else "pin another engine"
    return f"engine {engine.short} {advisory.effect} ({advisory.id}), and {reach}; {to_do}"


def _sentences(engine: Engine, warned: Iterable[Advisory], concerned: Mapping[str, str]) -> list[str]:
    """One sentence for each degree of certainty."""
    said: dict[str, list[str]] = {}
    for one in warned:
        sure = concerned[one.id] == "yes"
        words = f"engine {engine.short}"
        if not sure:
            words += " may be one that"
        elif one.confidence != "A":
            words = f"it is reported that {words}"
        said.setdefault(words, []).append(f"{one.effect} ({one.id})")
    return [f"{words} {', and '.join(effects)}" for words, effects in said.items()]


def _cures(engine: Engine, met: Iterable[Advisory], known: Known) -> list[str]:
    """What the newest engine that is known has no more; [] when that is nothing."""
    newest = known.catalogue.newest_engine
    if newest is None or newest.date <= engine.date:
        return []
    left = known.catalogue.advisories_of(newest)
    cured = [one.id for one in met if one.id not in left]
    if not cured:
        return []
    *most, last = cured
    names = f"{', '.join(most)} and {last}" if most else last
    return [f"ds4_engine_commit {newest.short} ({newest.date}) would cure {names}"]
