"""What a Mac can serve: the verdict on a request, with its reasons.

`sizing.estimate` is the engine's own arithmetic; `verdict` holds it against a Mac, by the numbers of
`sizing.policy`.
"""

from __future__ import annotations

from dataclasses import replace

from ds4fleet.catalogue.read import Catalogue, Model
from ds4fleet.sizing import admission
from ds4fleet.sizing.estimate import (
    GIB,
    MIB,
    Estimate,
    ceil_mib,
    default_catalogue,
    estimate,
)
from ds4fleet.sizing.policy import (
    class_limit_mib,
    largest_fitting,
    policy,
    sensible_context,
    stock_limits_mib,
    streaming_speed,
    system_budget_mib,
)
from ds4fleet.sizing.rules import (
    Case,
    below_floor,
    cache_overrun,
    engine_rules,
    field_rules,
    fix_for,
    flags_of,
    limit_rule,
    no_streaming_rule,
    other_metal_rule,
    others_beside,
    sidecar_rules,
    streaming_floor_rule,
    warnings_about,
    what_is_asked,
)
from ds4fleet.sizing.types import (
    MODES,
    RAISED,
    REFUSED,
    SERVES,
    STAGING,
    STREAMS,
    Mac,
    Reason,
    Request,
    StreamingPlan,
    Verdict,
)


def verdict(mac: Mac, request: Request, *, catalogue: Catalogue | None = None) -> Verdict:
    """Whether `mac` can do what `request` asks, and on what terms.

    Raises OperatorError for a model, sidecar or generation that is not in the catalogue and ValueError for
    counts below 1 and an unknown mode. Nothing is measured here: the Mac's limits come in with `mac`. A
    prefill chunk that the engine cannot be told is left out of the arithmetic.
    """
    known = catalogue or default_catalogue()
    model = known.model(request.model)
    if request.mode not in MODES:
        raise ValueError(f"mode {request.mode!r} is none of {', '.join(MODES)}")
    if request.instances < 1:
        raise ValueError(f"{request.instances} instances: there must be one at least")
    if known.families[model.family].layout == "deepseek41":
        return admission.judge(mac, request, model, known)
    if request.mode == "streaming":
        return _streams(mac, request, model, known)
    answer = _resident(mac, request, model, known)
    if request.mode == "auto" and answer.outcome == REFUSED and below_floor(mac, model):
        return _staging(mac, request, answer, known)
    return answer


def _staging(mac: Mac, request: Request, answer: Verdict, known: Catalogue) -> Verdict:
    """A Mac that holds no model: it keeps weights for others, and is offered as one that streams."""
    staging = replace(answer, outcome=STAGING, wired_limit_mib=0, mode="none")
    if mac.memory_gb < int(policy()["streaming"]["offer_from_gb"]):
        return staging
    streamed = verdict(mac, replace(request, mode="streaming", ctx=None), catalogue=known)
    plan = streamed.streaming
    if streamed.outcome != STREAMS or plan is None or plan.decode_tps is None:
        return staging
    low, high = plan.decode_tps
    offer = (
        f"it can serve {request.model} from its SSD (ds4_role: stream): {low:g} to {high:g} tokens/s were"
        f" reported of such Macs ({plan.speed_source}), with a context of {plan.context:,}; ds4_role: staging"
        " leaves it as it is"
    )
    return replace(staging, streaming=plan, warnings=(*staging.warnings, offer))


def auto_context(mac: Mac, request: Request, *, catalogue: Catalogue | None = None) -> int:
    """The largest context that is comfortable and sensible on this Mac; 0 when there is none."""
    known = catalogue or default_catalogue()
    percent = policy()["margin"]["comfortable_percent"]
    comfortable = int(_allowed_mib(mac, request, known.model(request.model), percent))
    return sensible_context(
        mac, lambda tokens: _required_mib(replace(request, ctx=tokens), known) <= comfortable
    )


def auto_cache_gib(mac: Mac, model: Model, known: Catalogue) -> float:
    """GiB of experts that the engine caches by itself: its share of the working set, less what is not
    routed. It does not know what else holds memory."""
    working_set_mib = mac.wired_limit_mib or stock_limits_mib(mac)[0]
    share = policy()["streaming"]["auto_cache_percent"] / 100
    return float(working_set_mib / 1024 * share - _non_routed_bytes(model, known) / GIB)


def _non_routed_bytes(model: Model, known: Catalogue) -> int:
    shape = known.families[model.family].shape
    return model.weights_bytes - known.quants[model.quant].routed_bytes(shape)


def streaming_plan(mac: Mac, request: Request, *, catalogue: Catalogue | None = None) -> StreamingPlan:
    """Cache, memory and expected speed of SSD streaming; whether it fits is for `verdict` to say."""
    known = catalogue or default_catalogue()
    model = known.model(request.model)
    shape, quant = known.families[model.family].shape, known.quants[model.quant]
    rules = policy()["streaming"]
    ctx = int(rules["contexts"]["default"]) if request.ctx is None else request.ctx
    need = _estimate(replace(request, ctx=ctx, sidecar=None), known)
    non_routed = _non_routed_bytes(model, known)
    headroom = (
        2 * shape.experts * quant.expert_bytes(shape)
    )  # two layers, read ahead while a prompt is prefilled
    auto_gib = auto_cache_gib(mac, model, known)
    wanted_gib = mac.memory_gb * rules["cache_percent_of_memory"] / 100
    takes_auto = request.cache_gib is None and model.family == "pro" and rules["pro_cache"] == "auto"
    cache_gib = request.cache_gib or (auto_gib if takes_auto else min(auto_gib - headroom / GIB, wanted_gib))
    cache_gib = max(int(cache_gib), 1)
    # The engine's own budget has the headroom in it.
    beside = non_routed + need.non_weight_bytes + (0 if takes_auto else headroom)
    times = cache_overrun(mac, known.generation(request.generation), known)
    if times > 1 and request.cache_gib is None and not takes_auto:
        left = system_budget_mib(mac, int(policy()["least_reserve_mib"])) * MIB - beside
        cache_gib = max(min(cache_gib, left // (times * GIB)), 1)
    planned = beside + cache_gib * GIB
    # NGB of --ssd-streaming-cache-experts holds the layers that are read ahead as well (ds4.c at 54b36ed).
    ahead_gib = -(-headroom // GIB)
    decode, prefill, source = streaming_speed(mac, model.family, model.quant)
    return StreamingPlan(
        cache_gib=cache_gib,
        cache_flag="" if takes_auto else f"{cache_gib + ahead_gib}GB",
        planned_mib=ceil_mib(planned),
        non_routed_mib=ceil_mib(non_routed),
        context=ctx,
        decode_tps=decode,
        prefill_tps=prefill,
        speed_source=source,
        wear=str(rules["wear"]),
        worst_mib=ceil_mib(beside + times * cache_gib * GIB),
    )


# --- resident ---


def _resident(mac: Mac, request: Request, model: Model, known: Catalogue) -> Verdict:
    rules = policy()
    if request.ctx is None:
        chosen = auto_context(mac, request, catalogue=known) or int(rules["context"]["least_useful"])
        request = replace(request, ctx=chosen)
    need = _estimate(request, known)
    required = need.required_wired_mib * request.instances
    limit, planned = _limit(mac, request, model, required)
    budget = system_budget_mib(mac)
    allowed = int(_allowed_mib(mac, request, model, rules["margin"]["refuse_above_percent"]))
    largest = largest_fitting(lambda tokens: _required_mib(replace(request, ctx=tokens), known) <= allowed)
    case = Case()
    field_rules(case, mac, request, model)
    engine_rules(case, request, model, known, "resident")
    if request.sidecar:
        sidecar_rules(case, request, model, known)
    ruled_out = case.against[0].rule if case.against else ""
    blocked = bool(case.against) and (case.hard or not request.override)
    if not case.hard:
        ways = _ways_to_fit(request, known, allowed, largest)
        _arithmetic(case, mac, request, need, limit, budget, ways)
    limit_rule(case, mac, request)
    overridden = request.override if case.against and not case.hard and request.override else ""
    refused = bool(case.against) and not overridden
    margin = min(limit, budget) - required
    binding = "system memory" if budget < limit else "GPU wired limit"
    return Verdict(
        outcome=REFUSED if refused else (RAISED if planned else SERVES),
        model=request.model,
        mode="resident",
        context=need.ctx,
        required_mib=required,
        limit_mib=limit,
        wired_limit_mib=planned,
        margin_mib=margin,
        margin_percent=round(100 * margin / limit, 1),
        binding=f"the rule {ruled_out}" if ruled_out and refused else binding,
        largest_context=0 if blocked else largest,
        first_failure=_first_failure(need, request, limit, mac),
        fix=fix_for(case, refused),
        reasons=tuple(case.against) or (_good(need, request, required, limit, planned),),
        warnings=tuple(warnings_about(mac, request, required, limit, refused)),
        overridden=overridden,
        estimate=need,
    )


def _arithmetic(
    case: Case, mac: Mac, request: Request, need: Estimate, limit: int, budget: int, ways: str
) -> None:
    """Objects to what does not fit the GPU's limit, or else does not fit beside the system."""
    rules = policy()
    most = rules["margin"]["refuse_above_percent"]
    required = need.required_wired_mib * request.instances
    hopeless = required > mac.memory_mib
    if required > limit * most / 100:
        text = (
            f"{what_is_asked(request, need)} needs {required:,} MiB wired, {100 * required / limit:.1f} % of"
            f" the {limit:,} MiB that the GPU may wire here; above {most} % it has not worked."
        )
        raised = class_limit_mib(mac)
        if required <= raised * most / 100 and limit < raised:
            ways = (
                f"raise iogpu.wired_limit_mb to {raised:,}"
                if not request.wired_limit_mib
                else f"raise ds4_wired_limit_mib to {raised:,}, or leave it auto"
            )
        case.object(Reason("wired-limit", text, rules["margin"]["source"]), ways, hopeless)
    elif required > budget:
        text = (
            f"{what_is_asked(request, need)} needs {required:,} MiB, but beside the system"
            f"{others_beside(mac)} {mac.name} has {budget:,} MiB."
        )
        case.object(Reason("system-reserve", text, str(rules["desktop"]["source"])), ways, hopeless)


def _ways_to_fit(request: Request, known: Catalogue, allowed_mib: int, largest: int) -> str:
    """The changes to the request of which each alone would make it fit, mildest first."""
    rules = policy()["context"]
    ways = []
    if rules["least_useful"] <= largest < (request.ctx or 0):
        ways.append(f"lower the context to {largest:,}")
    small = int(policy()["prefill_chunk"]["small"])
    smaller = replace(request, prefill_chunk=small)
    if (
        "--prefill-chunk" in flags_of(request, known)
        and _estimate(request, known).prefill_chunk > small
        and _required_mib(smaller, known) <= allowed_mib
    ):
        ways.append(f"set ds4_prefill_chunk to {small} (prompts are then read more slowly)")
    for sessions in range(request.sessions - 1, 0, -1):
        if _required_mib(replace(request, sessions=sessions), known) <= allowed_mib:
            ways.append(f"lower ds4_sessions to {sessions}")
            break
    one_mib = _estimate(request, known).required_wired_mib
    if request.instances > 1 and one_mib <= allowed_mib:
        ways.append(f"run {allowed_mib // one_mib} at a time")
    return ", or ".join(ways)


def _estimate(request: Request, known: Catalogue) -> Estimate:
    chunk = request.prefill_chunk if "--prefill-chunk" in flags_of(request, known) else None
    return estimate(
        request.model,
        1 if request.ctx is None else request.ctx,
        request.sessions,
        request.generation,
        chunk,
        request.sidecar,
        catalogue=known,
    )


def _required_mib(request: Request, known: Catalogue) -> int:
    return _estimate(request, known).required_wired_mib * request.instances


def _limit(mac: Mac, request: Request, model: Model, required: int) -> tuple[int, int]:
    """(limit to judge against, limit to set; 0 leaves stock)."""
    if request.wired_limit_mib:
        return request.wired_limit_mib, request.wired_limit_mib
    lowest, _highest = stock_limits_mib(mac)
    if not mac.may_raise:
        # Not a setting of ours: judged as it stands.
        return (mac.wired_limit_mib, mac.wired_limit_mib) if mac.wired_limit_mib else (_stock(mac, model), 0)
    share = policy()["margin"]["comfortable_percent"] / 100
    if model.family not in policy()["always_raise"] and required <= lowest * share:
        return lowest, 0
    return class_limit_mib(mac), class_limit_mib(mac)


def _stock(mac: Mac, model: Model) -> int:
    """The limit that macOS is taken to give where it may not be raised: where it is not known, at its most
    generous, but for families that were never seen to work at stock.
    """
    lowest, highest = stock_limits_mib(mac)
    return lowest if model.family in policy()["always_raise"] else highest


def _allowed_mib(mac: Mac, request: Request, model: Model, percent: float) -> float:
    """The most that may be required here, once the limit is what it can be."""
    if request.wired_limit_mib:
        limit = request.wired_limit_mib
    elif not mac.may_raise:
        limit = mac.wired_limit_mib or _stock(mac, model)
    else:
        limit = max(class_limit_mib(mac), stock_limits_mib(mac)[0])
    return min(limit * percent / 100, system_budget_mib(mac))


def _first_failure(need: Estimate, request: Request, limit: int, mac: Mac) -> str:
    """What would be seen first if this were tried, or if it grew."""
    weights = ceil_mib(need.weights_bytes + need.sidecar_bytes) * request.instances
    required = need.required_wired_mib * request.instances
    pages = "the Mac pages, freezes and reboots"
    if request.backend != "metal":
        return "a kernel panic (watchdog timeout) while the CPU backend reads the weights"
    if weights > mac.memory_mib:
        return f"{pages} while the weights are read"
    if weights > limit:
        return "the engine stops at start: Metal model warmup failed: Insufficient Memory"
    if required - ceil_mib(need.indexer_bytes) > limit:
        return "the engine loads the weights and fails to create its session"
    if required <= limit and required > mac.memory_mib - policy()["least_reserve_mib"]:
        return f"{pages} under load: too little is left for the system"
    return "a long prefill near the end of the context runs out of GPU memory, and the Mac stalls"


def _good(need: Estimate, request: Request, required: int, limit: int, planned: int) -> Reason:
    how = f"raised to {planned:,} MiB" if planned else "that macOS gives by itself"
    share = 100 * required / limit
    text = f"{what_is_asked(request, need)} needs {required:,} MiB, {share:.1f} % of a limit {how}."
    return Reason("fits", text)


# --- streaming ---


def _streams(mac: Mac, request: Request, model: Model, known: Catalogue) -> Verdict:
    rules = policy()["streaming"]
    plan = streaming_plan(mac, request, catalogue=known)
    case = Case()
    _streaming_rules(case, mac, request, model, known)
    budget = max(system_budget_mib(mac, int(policy()["least_reserve_mib"])), 0)

    def planned(tokens: int) -> int:
        return streaming_plan(mac, replace(request, ctx=tokens), catalogue=known).worst_mib

    reported = int(rules["contexts"]["largest"])
    largest = min(largest_fitting(lambda tokens: planned(tokens) <= budget), reported)
    if plan.worst_mib > budget and not case.hard:
        text = f"streaming {model.id} plans {plan.planned_mib:,} MiB, {mac.name} can give {budget:,} MiB."
        if plan.planned_mib <= budget:
            text = (
                f"streaming {model.id} plans {plan.planned_mib:,} MiB, but this engine can hold twice the"
                f" {plan.cache_gib} GiB of experts that it is allowed: {plan.worst_mib:,} MiB of {budget:,}."
            )
        useful = policy()["context"]["least_useful"] <= largest < plan.context
        fix = f"lower the context to {largest:,}" if useful else "lower the expert cache"
        case.object(Reason("streaming-memory", text), fix)
    limit_rule(case, mac, request)
    overridden = request.override if case.against and not case.hard and request.override else ""
    refused = bool(case.against) and not overridden
    speed = f"{plan.decode_tps[0]:g} to {plan.decode_tps[1]:g} tokens/s" if plan.decode_tps else "no reports"
    good = Reason(
        "streams", f"streams with {plan.cache_gib} GiB of experts in memory: {speed}.", plan.speed_source
    )
    warnings = [f"slow: {speed}"] if mac.memory_gb < rules["offer_from_gb"] else []
    if plan.context > reported and not refused:
        warnings.append(f"there is no report of streaming with a context above {reported:,}")
    return Verdict(
        outcome=REFUSED if refused else STREAMS,
        model=request.model,
        mode="streaming",
        context=plan.context,
        required_mib=plan.planned_mib,
        limit_mib=budget,
        wired_limit_mib=0,
        margin_mib=budget - plan.planned_mib,
        margin_percent=round(100 * (budget - plan.planned_mib) / budget, 1) if budget > 0 else -100.0,
        binding="memory for the expert cache",
        largest_context=0 if case.hard else largest,
        first_failure=str(rules["first_failure"]),
        fix=fix_for(case, refused),
        reasons=tuple(case.against) or (good,),
        warnings=(*warnings, plan.wear, *warnings_about(mac, request, 0, 1, refused)),
        overridden=overridden,
        estimate=_estimate(replace(request, ctx=plan.context, sidecar=None), known),
        streaming=plan,
    )


def _streaming_rules(case: Case, mac: Mac, request: Request, model: Model, known: Catalogue) -> None:
    """What speaks against streaming, whatever it needs."""
    no_streaming_rule(case, request, known)
    engine_rules(case, request, model, known, "streaming")
    if request.sidecar:
        text = "the engine refuses a draft head together with SSD streaming."
        case.object(Reason("sidecar", text, "ds4.c at 54b36ed"), "leave ds4_sidecars empty", True)
    streaming_floor_rule(case, mac, model)
    other_metal_rule(case, mac)
