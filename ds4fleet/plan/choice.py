"""What a Mac is to be and which model it is to serve, by what its memory can hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ds4fleet.catalogue.read import Engine
from ds4fleet.components import jump
from ds4fleet.components.base import NOTHING
from ds4fleet.components.shapes import MemoryPlan
from ds4fleet.errors import OperatorError
from ds4fleet.plan.known import Known
from ds4fleet.plan.types import HostPlan, JumpPlan, ModelChoice
from ds4fleet.sizing import speed
from ds4fleet.sizing import types as sizing
from ds4fleet.sizing.policy import jump_up_to_gb, model_for, model_steps, think_max_tokens
from ds4fleet.sizing.rules import cannot_load
from ds4fleet.sizing.types import Request, Verdict
from ds4fleet.sizing.verdict import verdict as verdict_on


def with_role(plan: HostPlan, known: Known, engine: Engine) -> tuple[HostPlan, Verdict | None]:
    """The plan with role and model, and the verdict on them; None where no engine is to run.

    Raises OperatorError for settings that exclude each other.
    """
    role, settings = _declared_role(known), known.settings
    plan = replace(plan, role="serve" if role == "auto" else role)
    if role == "jump":
        return _as_jump(plan, known), None
    if known.variables.get("ds4_jump_to"):
        plan = plan.saying(warnings=[f"ds4_jump_to has no effect where ds4_role is {settings.role}"])
    candidates = _auto_models(known, engine) if settings.model == "auto" else [settings.model]
    if role == "staging":
        return _staging(_with_model(plan, known, candidates[-1]), known, engine), None
    mode = "streaming" if role == "stream" else settings.mode
    verdicts = [_verdict(model, known, engine, mode) for model in candidates]
    verdict = next((one for one in verdicts if one.outcome != sizing.REFUSED), verdicts[0])
    plan = _with_model(plan, known, verdict.model)
    if verdict.outcome == sizing.STAGING and role == "auto":
        return replace(plan, role="staging"), verdict
    streams = verdict.outcome == sizing.STREAMS or role == "stream"
    plan = replace(plan, role="stream" if streams else "serve")
    if verdict.outcome in (sizing.REFUSED, sizing.STAGING):
        reasons = (verdict.why or "it does not fit").rstrip(".")
        plan = plan.saying(refusals=[f"{reasons}; to do: {verdict.fix}."])
    return plan, verdict


def _as_jump(plan: HostPlan, known: Known) -> HostPlan:
    to = str(known.variables.get("ds4_jump_to") or "") or None
    targets = [spec.name for spec in known.targets.specs] if known.targets else None
    leads = JumpPlan(to, targets, jump.has_key(known.paths.root, known.seen))
    said = []
    if to is None:
        said.append("a jump Mac without ds4_jump_to holds no tunnel; name the Mac that serves")
    elif known.seen is not None and not leads.has_key:
        said.append(f"it has no key for {to} yet, so it holds no tunnel; run fab jump")
    return replace(plan, jump=leads).saying(warnings=said)


def with_memory(plan: HostPlan, known: Known, engine: Engine, verdict: Verdict | None) -> HostPlan:
    """The plan with what its memory is to hold: limit, mode and context."""
    live = (known.seen or NOTHING).memory
    memory = MemoryPlan(
        live_wired_limit_mib=live.wired_limit_mib,
        stock_limit_mib=live.stock_limit_mib,
        memory_mib=known.mac.memory_mib,
        override=known.settings.override,
        sentence=plan.role,
        outcome=plan.role,
    )
    if verdict is None:
        return replace(plan, memory=memory)
    plan = replace(plan, memory=_judged(memory, verdict)).saying(warnings=verdict.warnings)
    if plan.role not in ("serve", "stream"):
        return plan
    plan = replace(plan, mode=verdict.mode, context=verdict.context)
    refusals = []
    if engine.generation < "2026-07" and known.settings.sessions > 1:
        refusals.append(
            f"ds4_sessions {known.settings.sessions} needs --batched-session, which engines"
            " before July 2026 lack; set it to 1 or pin a newer engine"
        )
    return plan.saying(refusals=refusals, warnings=_about_the_context(plan, known, verdict))


def _judged(memory: MemoryPlan, verdict: Verdict) -> MemoryPlan:
    """With the verdict."""
    return replace(
        memory,
        wired_limit_mib=verdict.wired_limit_mib,
        sentence=verdict.sentence,
        outcome=verdict.outcome,
        streaming=verdict.streaming,
        model=verdict.model,
        mode=verdict.mode,
        context=verdict.context,
        required_mib=verdict.required_mib,
        limit_mib=verdict.limit_mib,
        margin_mib=verdict.margin_mib,
        margin_percent=verdict.margin_percent,
        binding=verdict.binding,
        largest_context=verdict.largest_context,
        first_failure=verdict.first_failure,
        fix=verdict.fix,
        reasons=tuple(reason.text for reason in verdict.reasons),
        warnings=tuple(verdict.warnings),
        overridden=verdict.overridden,
        estimate=verdict.estimate,
    )


def with_speed(plan: HostPlan, known: Known) -> HostPlan:
    """The plan with what was published of such a Mac's speed, where anything was."""
    if plan.model is None or plan.role not in ("serve", "stream"):
        return plan
    live = (known.seen or NOTHING).hardware
    chip = str(live.chip or known.declared.get("chip") or "")
    found = speed.expected(chip, plan.model.family, plan.model.quant, plan.generation, plan.mode)
    if found is not None:
        return replace(plan, speed=found)
    streaming = plan.memory.streaming if plan.memory else None
    if streaming is None or streaming.decode_tps is None:
        return plan
    low, high = streaming.decode_tps
    published = speed.Speed(
        decode_tps=(low, high),
        prefill_tps=streaming.prefill_tps,
        sources=(streaming.speed_source,),
        same_generation=False,
        text=f"{low:g}-{high:g}",
    )
    return replace(plan, speed=published)


def _declared_role(known: Known) -> str:
    """The role that the settings name, `auto` where memory is to decide."""
    role, mode = known.settings.role, known.settings.mode
    if role == "stream" and mode == "resident":
        raise OperatorError("ds4_role stream and ds4_mode resident exclude each other; drop one of them")
    if mode == "streaming" and role in ("auto", "serve"):
        return "stream"
    small = known.mac.memory_gb <= jump_up_to_gb()
    leads = small or bool(known.variables.get("ds4_jump_to"))
    return "jump" if role == "auto" and mode == "auto" and leads else role


def models_of_auto() -> list[str]:
    """Every model that `ds4_model: auto` comes to on a Mac of some size."""
    return [one.model for one in model_steps()]


def _auto_models(known: Known, engine: Engine) -> list[str]:
    """What `ds4_model: auto` tries, best first: the model of this size, then those of smaller Macs."""
    traits = known.catalogue.generation(engine.generation)
    reaching = [one.model for one in model_steps() if one.up_to_gb < known.mac.memory_gb]
    reaching.append(model_for(known.mac.memory_gb))
    models = [known.catalogue.model(name) for name in reaching]
    return [model.id for model in reversed(models) if traits.can_load(model.family, model.quant)]


def _verdict(model: str, known: Known, engine: Engine, mode: str) -> Verdict:
    settings = known.settings
    request = Request(
        model=model,
        ctx=settings.context,
        mode=mode,
        sessions=settings.sessions,
        generation=engine.generation,
        prefill_chunk=settings.prefill_chunk,
        sidecar=settings.sidecars[0] if settings.sidecars else None,
        wired_limit_mib=settings.wired_limit_mib,
        override=settings.override,
        flags=engine.flags or None,
    )
    return verdict_on(known.mac, request, catalogue=known.catalogue)


def _with_model(plan: HostPlan, known: Known, model_id: str) -> HostPlan:
    model = known.catalogue.model(model_id)
    said = []
    if model.superseded_by:
        said.append(f"{model.id} was replaced upstream by {model.superseded_by} (same size)")
    chosen = ModelChoice(model.id, model.name, model.family, model.quant)
    return replace(plan, model=chosen).saying(warnings=said)


def _staging(plan: HostPlan, known: Known, engine: Engine) -> HostPlan:
    """A Mac that keeps weights for others may keep what only another engine loads: say so."""
    if plan.model is None:
        return plan
    objection = cannot_load(known.catalogue, engine.generation, plan.model.family, plan.model.quant)
    said = [f"{objection[0]}, so {plan.model.id} is kept for other Macs; {objection[1]}"] if objection else []
    return plan.saying(warnings=said)


def _about_the_context(plan: HostPlan, known: Known, verdict: Verdict) -> Iterator[str]:
    """A smaller context than the running one voids KV checkpoints and surprises clients: say so."""
    models = (known.seen or NOTHING).server.models
    live = next((one.context_length for one in (models.data if models else ())), None)
    if live is not None and live > plan.context:
        yield (
            f"the context goes from {live:,} to {plan.context:,};"
            " checkpoints of the larger one no longer load"
        )
    think_max = think_max_tokens()
    if known.settings.context and verdict.context < think_max <= verdict.largest_context:
        yield f"Think-Max needs a context of {think_max:,}; below it max is plain high"
