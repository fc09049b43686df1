"""What a report says of an engine: a verdict, advisories, and where it differs from its generation. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ds4agent.qualify.order import Report, Seen
from ds4fleet.catalogue.engines import Engine, Generation
from ds4fleet.catalogue.read import Catalogue
from ds4fleet.upstream import facts

Word = Literal["good", "good with limits", "bad"]
#: Names of the data that rules are read from.
SOUND, DEEP, FLIPPED = "sound", "deeper than the longest first prompt", "a flipped byte"
QUANT_BITS = {4: "of 4-bit weights", 5: "of 5-bit weights", 8: "of 8-bit weights"}
#: An engine takes none of these, whatever its generation.
FOREIGN = (
    "of another model", "of another payload ABI", "of a larger context", "under another name", "cut off",
    "zeros for a payload", "too few tokens",
)  # fmt: skip
#: Advisories that a build without a GPU shows.
KV_DAMAGE, KV_WEIGHTS, KV_DEEP, STOP = "ADV-6", "ADV-7", "ADV-2", "ADV-5"


@dataclass(frozen=True)
class Subject:
    """What is qualified. commit: 7 to 40 hex digits. date: its day, "" where it is not known. origin: where
    its build is. known: whether the catalogue has the commit."""

    commit: str
    date: str
    origin: str
    engine: Engine
    generation: Generation

    @property
    def short(self) -> str:
        return self.commit[:12]


@dataclass(frozen=True)
class Judgement:
    """why: reasons for a verdict that is not good. measured: {advisory: found}. by_day: advisories that only
    the day of the commit tells. differences: from the generation. unseen: what was not looked at."""

    verdict: Word
    why: tuple[str, ...]
    limits: tuple[str, ...]
    measured: Mapping[str, bool]
    by_day: Mapping[str, str]
    loads: Mapping[str, tuple[str, ...]]
    differences: tuple[str, ...]
    unseen: tuple[str, ...]


def judge(report: Report, subject: Subject, catalogue: Catalogue) -> Judgement:
    """The verdict and what it rests on."""
    measured = measure(report)
    loads = loaded(report)
    differences = tuple(_differences(report, subject, catalogue, loads))
    concerned = catalogue.advisories_of(subject.engine)
    by_day: dict[str, str] = {name: sure for name, sure in concerned.items() if name not in measured}
    why = [*_reasons(report, subject, catalogue)]
    limits = [*_limits(report, measured, by_day, catalogue)]
    unseen = (*report.unseen, *_unseen(report, measured))
    verdict: Word = "bad" if why else "good with limits" if limits or differences or unseen else "good"
    return Judgement(verdict, tuple(why), tuple(limits), measured, by_day, loads, differences, unseen)


def measure(report: Report) -> dict[str, bool]:
    """{advisory: whether the build has it}, of those that were seen either way."""
    found: dict[str, bool] = {}
    crash = str(facts.data()["requests"]["advisory"])
    if any(one.end == "crashed" for one in report.requests):
        found[crash] = True
    elif (
        report.requests
        and not report.left
        and all(one.end in ("answered", "silent") for one in report.requests)
    ):
        found[crash] = False
    kv = {one.what: one for one in report.checkpoints}
    if SOUND in kv and kv[SOUND].end == "taken":
        found[KV_WEIGHTS] = True  # it was made without weights
        if kv[DEEP].end == "taken":
            found[KV_DEEP] = kv[DEEP].said == "deleted"
        if kv[FLIPPED].end in ("taken", "ignored"):
            found[KV_DAMAGE] = kv[FLIPPED].end == "taken"
    if report.stop is not None and report.stop.completes is not None:
        found[STOP] = report.stop.completes
    return dict(sorted(found.items(), key=lambda item: int(item[0].rpartition("-")[2])))


def loaded(report: Report) -> dict[str, tuple[str, ...]]:
    """{family: quants} that it loads."""
    found: dict[str, tuple[str, ...]] = {}
    for one in report.loads:
        family, _space, quant = one.what.partition(" ")
        if one.end == "loads":
            found[family] = (*found.get(family, ()), quant)
    return found


def uncertain(report: Report) -> list[str]:
    """Families whose headers are not published: an engine that knows them refuses ours for another reason."""
    found = []
    for family, rule in facts.data()["unknown_families"].items():
        seen = [one for one in report.loads if one.what.startswith(f"{family} ")]
        if seen and not any(rule["refusal"] in one.said for one in seen):
            found.append(family)
    return found


def crashes(seen: Sequence[Seen]) -> list[Seen]:
    return [one for one in seen if one.end == "crashed"]


def _reasons(report: Report, subject: Subject, catalogue: Catalogue) -> Iterator[str]:
    dead = crashes(report.requests)
    if dead:
        yield f"{len(dead)} of {len(report.requests)} malformed requests end it, such as {dead[0].what}"
    if report.serves.end == "broken":
        yield f"its server does not come to listen: {report.serves.said or 'it says nothing'}"
    if not loaded(report):
        yield "it loads none of the headers"
    if "--model" not in report.flags:
        yield "its parser does not take --model FILE --help"
    if subject.engine.known and subject.engine.known_bad:
        yield f"the catalogue has it as bad: {subject.engine.note}"


def _limits(
    report: Report, measured: Mapping[str, bool], by_day: Mapping[str, str], catalogue: Catalogue
) -> Iterator[str]:
    crash = str(facts.data()["requests"]["advisory"])
    newer = {*loaded(report), *uncertain(report)} & set(facts.data()["unknown_families"])
    for name, advisory in catalogue.advisories.items():
        severity = catalogue.severities[advisory.severity]
        matters = (severity.one_user, severity.several_users) != ("note", "note")
        if "v41" in advisory.when and not newer:
            continue
        if matters and name != crash and (measured.get(name) or by_day.get(name) == "yes"):
            yield f"{name}: it {advisory.effect}" + (
                "" if name in measured else " (by its day, not measured)"
            )
    for what, seen in (
        ("a malformed weights file", report.hostile_weights),
        ("a damaged KV checkpoint", report.hostile_checkpoints),
    ):
        dead = crashes(seen)
        if dead:
            yield f"{what} ends it: {', '.join(one.what for one in dead)}"
    for what, seen in (
        ("weights file", report.hostile_weights),
        ("KV checkpoint", report.hostile_checkpoints),
    ):
        odd = [one.what for one in seen if one.end == "silent"]
        if odd:
            yield f"it does not come to an end with a {what} of these: {', '.join(odd)}"
    silent = [one for one in report.requests if one.end == "silent"]
    if silent:
        yield f"{len(silent)} malformed requests have no answer, such as {silent[0].what}"


def _unseen(report: Report, measured: Mapping[str, bool]) -> Iterator[str]:
    if report.left and report.serves.end == "listens":
        yield f"{report.left} requests were not asked: the time was over"
    kv = {one.what: one for one in report.checkpoints}
    if kv and kv[SOUND].end != "taken":
        yield "it takes none of the KV checkpoints made here, so their rules could not be seen"
    if report.stop is not None and report.stop.completes is None:
        yield f"what becomes of prefill after SIGTERM: {report.stop.said or 'no prefill was caught at work'}"
    for family in uncertain(report):
        yield f"whether it loads {family}: no header of it is published, and ours is not refused as unknown"


def _differences(
    report: Report, subject: Subject, catalogue: Catalogue, loads: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    generation = subject.generation
    own = set(facts.data()["sources"]["other_backends"])
    have, wanted = set(report.flags) - own, set(generation.flags) - own
    if have - wanted:
        yield f"flags that {generation.id} has not: {', '.join(sorted(have - wanted))}"
    if wanted - have:
        yield f"flags of {generation.id} that it has not: {', '.join(sorted(wanted - have))}"
    unsure = uncertain(report)
    for one in report.loads:
        family, _space, quant = one.what.partition(" ")
        if family not in unsure and generation.can_load(family, quant) != (quant in loads.get(family, ())):
            does = "loads" if quant in loads.get(family, ()) else "does not load"
            yield f"it {does} {one.what}, unlike {generation.id}" + (f": {one.said}" if one.said else "")
    yield from _kv_differences(report, generation)
    if report.stop is not None and any(report.stop.heard.values()) and not generation.stop.answers:
        yield "clients still hear something after SIGTERM"
    if report.stop is not None and report.stop.idle_status not in (None, 0):
        yield f"SIGTERM ends it with {report.stop.idle_status}, not 0"


def _kv_differences(report: Report, generation: Generation) -> Iterator[str]:
    kv = {one.what: one for one in report.checkpoints}
    if not kv or kv[SOUND].end != "taken":
        return
    for bits, name in QUANT_BITS.items():
        taken, wanted = kv[name].end == "taken", bits in generation.kv.quant_bits
        if taken != wanted:
            yield f"it {'takes' if taken else 'does not take'} KV checkpoints {name}, unlike {generation.id}"
    for name in FOREIGN:
        if kv[name].end != "ignored":
            yield f"KV checkpoint {name}: {kv[name].end}, not ignored"
    if kv[DEEP].end == "taken" and (kv[DEEP].said == "deleted") != generation.kv.deletes_deep:
        yield f"a deep KV checkpoint is {kv[DEEP].said} when it is loaded, unlike {generation.id}"
