"""Entries of a catalogue file that are about engines: generations, commits, advisories, severities."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ds4fleet.catalogue.engines import (
    ANSWERS,
    CONDITIONS,
    CONFIDENCES,
    Advisory,
    Answer,
    Confidence,
    Engine,
    Generation,
    KvRules,
    MemoryTraits,
    Range,
    Severity,
    StopRules,
)
from ds4fleet.catalogue.entry import Entry
from ds4fleet.catalogue.types import COMMIT, near

_GENERATION = re.compile(r"20\d\d-\d\d\Z")
_ADVISORY = re.compile(r"[A-Z][A-Z0-9-]{1,30}\Z")
_DAY = re.compile(r"20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\Z")
_FLAG = re.compile(r"--[a-z][a-z0-9-]*\Z")
_PREFILL = ("completes", "cancels")


def generation(
    key: str, value: Any, where: str, made: Mapping[str, Generation], quants: Collection[str]
) -> Generation:
    """made: those before it, on which its flags may build. quants: all that there are."""
    entry = Entry(
        where,
        value,
        (
            "title", "range", "families", "memory", "payload_abi", "kv", "stop", "cancels_on_disconnect",
            "drain_s", "signature", "defaults", "confidence", "flags",
        ),
    )  # fmt: skip
    if not _GENERATION.match(key):
        raise entry.error("must be named year-month, such as '2026-07', in quotes")
    signature = Entry(f"{where}.signature", entry.get("signature", dict, {}), ("has", "lacks"))
    base, change = _flags(entry, made)
    flags = [flag for flag in (base.flags if base else ()) if flag not in change.names("removed")]
    return Generation(
        id=key,
        title=entry.get("title", str),
        loads=_loads(entry, quants),
        memory=_memory(entry),
        payload_abi=entry.get("payload_abi", int),
        drain_s=entry.positive("drain_s"),
        has=signature.names("has"),
        lacks=signature.names("lacks"),
        flags=(*flags, *change.names("added")),
        added=change.names("added") if base else (),
        removed=change.names("removed"),
        changed=change.get("changed", dict, {}),
        range=_range(entry),
        kv=_kv(entry),
        stop=_stop(entry),
        cancels_on_disconnect=entry.get("cancels_on_disconnect", bool, False),
        defaults={**(base.defaults if base else {}), **entry.get("defaults", dict, {})},
        confidence=_confidence(entry),
    )


def _flags(entry: Entry, made: Mapping[str, Generation]) -> tuple[Generation | None, Entry]:
    """What the flags build on, and what changes; a plain list is added to nothing."""
    said = entry.data.get("flags", [])
    change = Entry(
        f"{entry.where}.flags",
        {"added": said} if isinstance(said, list) else said,
        ("after", "added", "removed", "changed"),
    )
    after = change.get("after", str, "")
    if after and after not in made:
        raise change.error(f"has after: {after!r}, which is no generation before it")
    base = made.get(after)
    for flag in (*change.names("added"), *change.names("removed"), *change.get("changed", dict, {})):
        if not isinstance(flag, str) or not _FLAG.match(flag):
            raise change.error(f"names {flag!r}, which is no flag")
    for flag in change.names("removed"):
        if base is None or flag not in base.flags:
            raise change.error(f"removes {flag}, which was not there")
    return base, change


def _loads(entry: Entry, quants: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """A plain list of families is of those whose quants are all loaded."""
    families = entry.data.get("families")
    if isinstance(families, list):
        return {family: tuple(quants) for family in entry.names("families")}
    if not isinstance(families, dict):
        raise entry.error(f"has families: {families!r}, which does not map families to their quants")
    inner = Entry(f"{entry.where}.families", families, list(families))
    return {family: inner.names(family) for family in families}


def _memory(entry: Entry) -> MemoryTraits:
    memory = Entry(
        f"{entry.where}.memory",
        entry.get("memory", dict),
        ("prefill_chunk", "whole_prompt_up_to", "compressed_bytes_per_value", "prefill_stage"),
    )
    chunks = memory.get("prefill_chunk", dict)
    for family, chunk in chunks.items():
        if not isinstance(chunk, int) or chunk <= 0:
            raise memory.error(f"has prefill_chunk.{family}: {chunk!r}, which must be above 0")
    return MemoryTraits(
        prefill_chunk=chunks,
        whole_prompt_up_to=memory.positive("whole_prompt_up_to"),
        compressed_bytes_per_value=memory.positive("compressed_bytes_per_value"),
        prefill_stage=memory.get("prefill_stage", bool),
    )


def _kv(entry: Entry) -> KvRules:
    usual = KvRules()
    kv = Entry(f"{entry.where}.kv", entry.get("kv", dict, {}), tuple(KvRules.__dataclass_fields__))
    bits = kv.get("quant_bits", list, list(usual.quant_bits))
    if not bits or not all(
        isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in bits
    ):
        raise kv.error(f"has quant_bits: {bits!r}, which must be whole numbers above 0")
    return KvRules(
        quant_bits=tuple(bits),
        cold_max_tokens=kv.get("cold_max_tokens", int, usual.cold_max_tokens),
        deletes_deep=kv.get("deletes_deep", bool, False),
        half_life_s=kv.get("half_life_s", int, usual.half_life_s),
        anchors=kv.names("anchors"),
        anchor_factor=kv.number("anchor_factor", usual.anchor_factor),
        checksum=kv.get("checksum", bool, False),
        stages_in_tmp=kv.get("stages_in_tmp", bool, True),
    )


def _stop(entry: Entry) -> StopRules:
    stop = Entry(f"{entry.where}.stop", entry.get("stop", dict, {}), ("answers", "prefill"))
    prefill = stop.get("prefill", str, "completes")
    if prefill not in _PREFILL:
        raise stop.error(f"has prefill: {prefill!r}, which is none of {', '.join(_PREFILL)}")
    return StopRules(stop.get("answers", bool, False), "cancels" if prefill == "cancels" else "completes")


def _range(entry: Entry) -> Range:
    span = Entry(f"{entry.where}.range", entry.get("range", dict, {}), ("first", "before"))
    days = [span.get(name, str, "") for name in ("first", "before")]
    for day in days:
        if day and not _DAY.match(day):
            raise span.error(f"has the day {day!r}, which must be written like '2026-08-04'")
    if all(days) and days[0] >= days[1]:
        raise span.error("ends before it begins")
    return Range(*days)


def _confidence(entry: Entry) -> Confidence:
    said = entry.get("confidence", str, "A")
    if said not in CONFIDENCES:
        raise entry.error(f"has confidence: {said!r}, which is none of {', '.join(CONFIDENCES)}")
    return said


def _commits(entry: Entry, key: str) -> tuple[str, ...]:
    found = entry.names(key)
    for commit in found:
        if not COMMIT.match(commit):
            raise entry.error(f"has {key}: {commit!r}, which is no commit of 7 to 40 hex digits, in quotes")
    return found


def _of_generation(entry: Entry, generations: Mapping[str, Generation]) -> Generation:
    name = entry.get("generation", str)
    if name not in generations:
        raise entry.error(f"has the unknown generation {name!r}{near(name, generations)}")
    return generations[name]


def engine(key: str, value: Any, where: str, generations: Mapping[str, Generation]) -> Engine:
    entry = Entry(
        where,
        value,
        (
            "generation", "known_bad", "payload_abi", "flags", "note", "date", "limits", "confidence",
            "measured", "defaults",
        ),
    )  # fmt: skip
    if not COMMIT.match(key):
        raise entry.error("must be named by a commit of 7 to 40 lower-case hex digits, in quotes")
    traits = _of_generation(entry, generations)
    day = entry.get("date", str, "")
    if day and not _DAY.match(day):
        raise entry.error(f"has date: {day!r}, which must be written like '2026-08-04'")
    measured = entry.get("measured", dict, {})
    for name, has in measured.items():
        if not isinstance(name, str) or not _ADVISORY.match(name) or not isinstance(has, bool):
            raise entry.error(f"has measured: {name!r}: {has!r}; it maps advisories to true or false")
    return Engine(
        pinned=key,
        commit=key,
        generation=traits.id,
        flags=entry.names("flags", traits.flags),
        payload_abi=entry.get("payload_abi", int, traits.payload_abi),
        known=True,
        known_bad=entry.get("known_bad", bool, False),
        note=entry.get("note", str, ""),
        date=day,
        limits=entry.names("limits"),
        confidence=_confidence(entry),
        measured=measured,
        defaults=entry.get("defaults", dict, {}),
    )


def bad_commits(value: Any, where: str, generations: Mapping[str, Generation]) -> Iterator[Engine]:
    """An engine for each commit of a list of those that are bad for one reason."""
    entry = Entry(where, value, ("generation", "note", "commits"))
    traits = _of_generation(entry, generations)
    note = entry.get("note", str)
    for commit in _commits(entry, "commits"):
        yield Engine(commit, commit, traits.id, traits.flags, traits.payload_abi, True, True, note)


def severity(key: str, value: Any, where: str) -> Severity:
    entry = Entry(where, value, ("title", "one_user", "several_users"))

    def answer(name: str) -> Answer:
        said = entry.get(name, str)
        if said not in ANSWERS:
            raise entry.error(f"has {name}: {said!r}, which is none of {', '.join(ANSWERS)}")
        return said

    return Severity(key, entry.get("title", str), answer("one_user"), answer("several_users"))


def advisory(key: str, value: Any, where: str, severities: Mapping[str, Severity]) -> Advisory:
    entry = Entry(
        where,
        value,
        ("severity", "effect", "when", "range", "only_on_a_branch", "fixed_by", "evidence", "confidence"),
    )
    if not _ADVISORY.match(key):
        raise entry.error("must be named in capital letters, digits and '-'")
    kind = entry.get("severity", str)
    if kind not in severities:
        raise entry.error(f"has the unknown severity {kind!r}{near(kind, severities)}")
    when = entry.names("when")
    for condition in when:
        if condition not in CONDITIONS:
            raise entry.error(f"has when: {condition!r}, which is none of {', '.join(CONDITIONS)}")
    return Advisory(
        id=key,
        severity=kind,
        effect=entry.get("effect", str),
        when=when,
        range=_range(entry),
        only_on_a_branch=entry.get("only_on_a_branch", bool, False),
        fixed_by=_commits(entry, "fixed_by"),
        evidence=entry.get("evidence", str),
        confidence=_confidence(entry),
    )
