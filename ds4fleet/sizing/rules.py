"""What speaks against a request: rules from the field and of the engine, each with its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ds4fleet.catalogue.engines import Generation
from ds4fleet.catalogue.read import Catalogue, Model
from ds4fleet.sizing.estimate import Estimate
from ds4fleet.sizing.policy import class_limit_mib, policy, streaming_floor_gb
from ds4fleet.sizing.types import Mac, Reason, Request


@dataclass
class Case:
    """What speaks against a request while it is judged."""

    against: list[Reason] = field(default_factory=list)
    hard: bool = False
    fixes: list[str] = field(default_factory=list)

    def object(self, reason: Reason, fix: str, hard: bool = False) -> None:
        self.against.append(reason)
        self.fixes.append(fix)
        self.hard = self.hard or hard


def fix_for(case: Case, refused: bool) -> str:
    fixes = "; ".join(dict.fromkeys(fix for fix in case.fixes if fix))
    return fixes or ("use a smaller model or a Mac with more memory" if refused else "nothing to do")


def flags_of(request: Request, known: Catalogue) -> Sequence[str]:
    """What the engine can be told: as probed, else as its generation is known."""
    return request.flags if request.flags is not None else known.generation(request.generation).flags


def below_floor(mac: Mac, model: Model) -> bool:
    floor = next(rule for rule in policy()["rules"] if rule["id"] == "resident-floor")
    above = float(floor["weights_above_gb"]) * 10**9
    return mac.memory_gb < int(floor["below_gb"]) and model.weights_bytes > above


def field_rules(case: Case, mac: Mac, request: Request, model: Model) -> None:
    for rule in policy()["rules"]:
        if not (rule.get("above_gb", 0) < mac.memory_gb < rule["below_gb"]):
            continue
        if model.quant not in rule.get("quants", [model.quant]):
            continue
        if model.family not in rule.get("families", [model.family]):
            continue
        if model.weights_bytes <= rule.get("weights_above_gb", 0) * 10**9:
            continue
        text = f"{mac.memory_gb} GB cannot hold {model.id} resident. {rule['why'].strip()}"
        case.object(Reason(rule["id"], text, rule["source"]), rule["fix"], bool(rule["hard"]))
    other_metal_rule(case, mac)


def other_metal_rule(case: Case, mac: Mac) -> None:
    rules = policy()["other_metal"]
    if mac.other_metal and mac.memory_gb < rules["refuse_below_gb"]:
        names = ", ".join(mac.other_metal)
        text = f"{names} uses the GPU too. {rules['why'].strip()}"
        case.object(Reason("other-metal", text, rules["source"]), f"stop {names}")


def cannot_load(known: Catalogue, generation: str, family: str, quant: str) -> tuple[str, str] | None:
    """Why engines of a generation do not load such a model, and which does; None when they load it."""
    traits = known.generation(generation)
    if traits.can_load(family, quant):
        return None
    text = f"engines of {traits.title} do not load {known.families[family].title}"
    if traits.loads.get(family):
        text += f" as {known.quants[quant].title}"
    able = known.loading(family, quant)
    fix = f"pin {able[0].short} ({able[0].date}) or a later one" if able else "choose another model"
    return text, fix


def engine_rules(case: Case, request: Request, model: Model, known: Catalogue, mode: str) -> None:
    """What the engine itself cannot do, in either mode."""
    if request.backend != "metal":
        text = f"the {request.backend} backend on macOS can panic the kernel."
        case.object(
            Reason("cpu-backend", text, "upstream README, antirez/ds4#483"), "build with make (Metal)", True
        )
    if objection := cannot_load(known, request.generation, model.family, model.quant):
        text, fix = objection
        case.object(Reason("generation", f"{text}."), fix, True)
    if mode not in model.modes:
        text = f"{model.id} is made for {' and '.join(model.modes)} use, not for {mode}."
        case.object(Reason("mode", text), f"choose a model with mode {mode}", True)


def sidecar_rules(case: Case, request: Request, model: Model, known: Catalogue) -> None:
    sidecar = known.sidecar(request.sidecar or "")
    if sidecar.family != model.family:
        text = f"the sidecar {sidecar.id} is not made for {model.family}."
        case.object(Reason("sidecar", text), "leave ds4_sidecars empty", True)
    missing = sidecar.missing_flag(flags_of(request, known))
    if missing:
        text = f"the sidecar {sidecar.id} needs an engine with {missing}."
        case.object(Reason("sidecar", text), "leave ds4_sidecars empty, or pin another engine", True)


def limit_rule(case: Case, mac: Mac, request: Request) -> None:
    """Objects to limits and contexts that should never be set, whatever fits."""
    rules = policy()
    if request.wired_limit_mib and request.wired_limit_mib > mac.memory_mib - rules["least_reserve_mib"]:
        text = (
            f"a wired limit of {request.wired_limit_mib:,} MiB leaves the system less than"
            f" {rules['least_reserve_mib']:,} MiB of {mac.memory_mib:,}."
        )
        fix = f"set ds4_wired_limit_mib to at most {class_limit_mib(mac):,}, or leave it auto"
        case.object(Reason("least-reserve", text), fix, hard=True)
    longest = int(rules["context"]["longest"])
    if (request.ctx or 0) > longest:
        text = f"a context of {request.ctx:,} is beyond the {longest:,} that the model was made for."
        case.object(Reason("context-length", text), f"lower the context to {longest:,}", hard=True)


def no_streaming_rule(case: Case, request: Request, known: Catalogue) -> None:
    """Objects to an engine that cannot stream."""
    flag = policy()["streaming"]["flag"]
    if flag not in flags_of(request, known):
        fix = "pin an engine of July 2026 or later, or use the Mac as a staging Mac"
        case.object(Reason("no-streaming", f"this engine has no {flag}."), fix, True)


def cache_overrun(mac: Mac, generation: Generation, known: Catalogue) -> int:
    """How many times the experts that its cache is allowed an engine may hold; 1 on Macs with room for that.

    The advisory counts from its first day on until a commit is known to cure it.
    """
    rule = policy()["streaming"]["cache_overrun"]
    advisory = known.advisories.get(rule["advisory"])
    if advisory is None or advisory.fixed_by or mac.memory_gb > rule["up_to_gb"]:
        return 1
    before = generation.range.before
    return int(rule["times"]) if not before or before > advisory.range.first else 1


def streaming_floor_rule(case: Case, mac: Mac, model: Model) -> None:
    """Objects to a Mac that is too small to stream this model."""
    least = streaming_floor_gb(model.family, model.quant)
    if mac.memory_gb < least:
        text = f"{model.id} streams from {least} GB of memory on, {mac.name} has {mac.memory_gb} GB."
        small = mac.memory_gb <= policy()["roles"]["jump_up_to_gb"]
        fix = "use it as a jump Mac" if small else "use a smaller model here"
        case.object(Reason("streaming-floor", text), fix, True)


# What is said of a request.


def what_is_asked(request: Request, need: Estimate) -> str:
    sessions = f" in each of {need.sessions} sessions" if need.sessions > 1 else ""
    times = f"{request.instances} times " if request.instances > 1 else ""
    side = f" and {request.sidecar}" if request.sidecar else ""
    return f"{times}{request.model}{side} with a context of {need.ctx:,}{sessions}"


def others_beside(mac: Mac) -> str:
    parts = ["the desktop"] if mac.desktop else []
    parts += list(mac.other_metal)
    return (" and " + " and ".join(parts)) if parts else ""


def warnings_about(mac: Mac, request: Request, required: int, limit: int, refused: bool) -> list[str]:
    result = []
    if request.sidecar and request.sessions > 1:
        result.append(
            f"the engine does not use {request.sidecar} with several sessions: it only takes memory there"
        )
    if not refused and required > limit * policy()["margin"]["comfortable_percent"] / 100:
        result.append(
            f"tight: {100 * required / limit:.1f} % of the wired limit, above what is chosen by itself"
        )
    if mac.other_metal:
        result.append(f"{', '.join(mac.other_metal)} also uses the GPU here")
    if request.override:
        result.append(f"memory override: {request.override}")
    return result
