"""The verdict on V4.1, whose engine itself refuses what does not fit.

Resident where all that must be held fits the engine's budget (sizing.v41), else streaming where that fits.
Our own policy adds what the engine does not know: the system, a desktop, other big applications.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ds4fleet.catalogue.read import Catalogue, Model
from ds4fleet.sizing import v41
from ds4fleet.sizing.estimate import GIB, MIB, Estimate, ceil_mib, estimate
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
    engine_rules,
    fix_for,
    limit_rule,
    no_streaming_rule,
    other_metal_rule,
    others_beside,
    sidecar_rules,
    streaming_floor_rule,
    what_is_asked,
)
from ds4fleet.sizing.types import (
    RAISED,
    REFUSED,
    SERVES,
    STREAMS,
    Mac,
    Reason,
    Request,
    StreamingPlan,
    Verdict,
)

SOURCE = "antirez/ds4 at bd66c40 (ds41_memory_admit_for_host), as ds4-control v1.8.2 tells it (B)"
_FAILS = "the engine ends at its start: it refuses what is more than its budget"


def judge(mac: Mac, request: Request, model: Model, known: Catalogue) -> Verdict:
    """Whether and how `mac` serves this model; a `request.mode` of auto is resident where that fits."""
    asked = _Asked(mac, request, model, known)
    if request.mode == "streaming":
        return asked.streaming()
    resident = asked.resident()
    if request.mode == "resident" or resident.outcome != REFUSED:
        return resident
    return asked.streaming()


@dataclass(frozen=True)
class _Limit:
    """MiB: the limit to judge against, and the one to set (0 leaves stock)."""

    mib: int
    planned_mib: int


class _Asked:
    """One request, with what follows from model and Mac."""

    def __init__(self, mac: Mac, request: Request, model: Model, known: Catalogue) -> None:
        self.mac, self.request, self.model, self.known = mac, request, model, known
        self.family = known.families[model.family]
        self.expert_bytes = known.quants[model.quant].expert_bytes(self.family.shape)
        self.side_bytes = known.sidecar(request.sidecar).weights_bytes if request.sidecar else 0

    # What it takes.

    def need(self, ctx: int) -> Estimate:
        ctx = min(max(ctx, 1), v41.LONGEST_CONTEXT)
        asked = self.request
        return estimate(
            asked.model, ctx, asked.sessions, asked.generation, None, asked.sidecar, catalogue=self.known
        )

    def resident_mib(self, ctx: int) -> int:
        return self.need(ctx).required_wired_mib * self.request.instances

    def streaming_mib(self, ctx: int) -> int:
        """Before a single expert is cached."""
        held = v41.streaming_weights(
            self.family.non_routed_bytes, self.family.shape.experts, self.expert_bytes
        )
        graph = self.need(ctx).context_buffers_bytes
        return ceil_mib(v41.fixed_bytes(held + self.side_bytes, graph, self.request.sessions))

    # What there is.

    def limit(self, required_mib: int) -> _Limit:
        """The wired limit for so many MiB: as asked for, as somebody has set it, else stock or raised."""
        mac, asked = self.mac, self.request.wired_limit_mib
        if asked:
            return _Limit(asked, asked)
        lowest = stock_limits_mib(mac)[0]
        if not mac.may_raise:
            return _Limit(mac.wired_limit_mib or lowest, mac.wired_limit_mib or 0)
        comfortable = policy()["margin"]["comfortable_percent"] / 100
        if required_mib <= lowest * comfortable:
            return _Limit(lowest, 0)
        return _Limit(self.raised_mib, self.raised_mib)

    @property
    def raised_mib(self) -> int:
        """More than this is no use: the engine does not take it, or the system lacks it."""
        return max(
            min(class_limit_mib(self.mac), self.mac.memory_mib * 7 // 8), stock_limits_mib(self.mac)[0]
        )

    def budget_mib(self, limit_mib: int) -> int:
        """What the engine would take at this limit, and the system can spare."""
        mac = self.mac
        engine = v41.budget_bytes(mac.memory_mib * MIB, limit_mib * MIB) // MIB
        return max(min(engine, system_budget_mib(mac, int(policy()["least_reserve_mib"]))), 0)

    def highest_budget_mib(self) -> int:
        return self.budget_mib(self.limit(self.mac.memory_mib).mib)

    # Resident.

    def resident(self) -> Verdict:
        if self.request.ctx is None:
            return _Asked(
                self.mac, replace(self.request, ctx=self.own_context()), self.model, self.known
            ).resident()
        need = self.need(self.request.ctx)
        required = self.resident_mib(need.ctx)
        limit = self.limit(required)
        budget = self.budget_mib(limit.mib)
        most = self.highest_budget_mib()
        largest = largest_fitting(lambda tokens: self.resident_mib(tokens) <= most)
        case = Case()
        self.common_rules(case, "resident")
        ruled = case.against[0].rule if case.against else ""
        if required > budget and not case.hard:
            text = (
                f"{what_is_asked(self.request, need)} needs {required:,} MiB resident; here the engine takes"
                f" {budget:,} MiB at most (7/8 of the memory, within the wired limit) and does not start"
                f" above that{self.beside(budget, limit.mib)}."
            )
            case.object(Reason("engine-budget", text, SOURCE), self.ways(largest, required, limit), True)
        return self.answer(case, need, required, limit, budget, largest, ruled)

    def own_context(self) -> int:
        """The largest context that is comfortable and sensible here; without one the least useful."""
        comfortable = self.highest_budget_mib() * policy()["margin"]["comfortable_percent"] / 100
        fitting = sensible_context(self.mac, lambda tokens: self.resident_mib(tokens) <= comfortable)
        return fitting or int(policy()["context"]["least_useful"])

    def answer(
        self,
        case: Case,
        need: Estimate,
        required: int,
        limit: _Limit,
        budget: int,
        largest: int,
        ruled: str,
    ) -> Verdict:
        refused = bool(case.against)
        how = f"raised to {limit.planned_mib:,} MiB" if limit.planned_mib else "that macOS gives by itself"
        what = what_is_asked(self.request, need)
        good = Reason("fits", f"{what} needs {required:,} MiB of {budget:,}, with a limit {how}.", SOURCE)
        raised = RAISED if limit.planned_mib else SERVES
        return Verdict(
            outcome=REFUSED if refused else raised,
            model=self.request.model,
            mode="resident",
            context=need.ctx,
            required_mib=required,
            limit_mib=budget,
            wired_limit_mib=limit.planned_mib,
            margin_mib=budget - required,
            margin_percent=_percent(budget - required, budget),
            binding=f"the rule {ruled}" if ruled else "the engine's own budget",
            largest_context=0 if ruled else largest,
            first_failure=_FAILS,
            fix=fix_for(case, refused),
            reasons=tuple(case.against) or (good,),
            warnings=tuple(self.warnings(False)),
            estimate=need,
        )

    def ways(self, largest: int, required: int, limit: _Limit) -> str:
        """The changes of which each alone would make it resident, mildest first; else streaming."""
        ways = []
        least = int(policy()["context"]["least_useful"])
        if least <= largest < (self.request.ctx or 0):
            ways.append(f"lower the context to {largest:,}")
        most = self.highest_budget_mib()
        for sessions in range(self.request.sessions - 1, 0, -1):
            fewer = _Asked(self.mac, replace(self.request, sessions=sessions), self.model, self.known)
            if fewer.resident_mib(self.request.ctx or 1) <= most:
                ways.append(f"lower ds4_sessions to {sessions}")
                break
        if limit.mib < self.raised_mib and required <= self.budget_mib(self.raised_mib):
            word = "ds4_wired_limit_mib" if self.request.wired_limit_mib else "iogpu.wired_limit_mb"
            ways.append(f"raise {word} to {self.raised_mib:,}")
        return ", or ".join(ways) or "stream it from the SSD (ds4_role: stream)"

    # Streaming.

    def streaming(self) -> Verdict:
        rules = policy()["streaming"]
        ctx = int(rules["contexts"]["default"]) if self.request.ctx is None else self.request.ctx
        asked = _Asked(self.mac, replace(self.request, ctx=ctx), self.model, self.known)
        return asked.streams_with(ctx)

    def streams_with(self, ctx: int) -> Verdict:
        need, fixed = self.need(ctx), self.streaming_mib(ctx)
        limit = self.limit(
            fixed + ceil_mib(self.experts(int(self.request.cache_gib or 0)) * self.expert_bytes)
        )
        budget = self.budget_mib(limit.mib)
        plan = self.streaming_plan(need.ctx, fixed, budget, limit.mib)
        largest = largest_fitting(lambda tokens: self.streaming_mib(tokens) <= budget)
        case = Case()
        self.common_rules(case, "streaming")
        no_streaming_rule(case, self.request, self.known)
        streaming_floor_rule(case, self.mac, self.model)
        ruled = case.against[0].rule if case.against else ""
        if (plan.planned_mib > budget or not self.experts(plan.cache_gib)) and not case.hard:
            text = (
                f"streaming {what_is_asked(self.request, need)} needs {max(plan.planned_mib, fixed):,} MiB;"
                f" here the engine takes {budget:,} MiB at most and does not start above that"
                f"{self.beside(budget, limit.mib)}."
            )
            useful = policy()["context"]["least_useful"] <= largest < ctx
            fix = f"lower the context to {largest:,}" if useful else "use a Mac with more memory"
            case.object(Reason("engine-budget", text, SOURCE), fix, True)
        refused = bool(case.against)
        speed = (
            f"{plan.decode_tps[0]:g} to {plan.decode_tps[1]:g} tokens/s" if plan.decode_tps else "no reports"
        )
        good = f"streams with {plan.cache_gib} GiB for experts in memory: {speed}."
        return Verdict(
            outcome=REFUSED if refused else STREAMS,
            model=self.request.model,
            mode="streaming",
            context=need.ctx,
            required_mib=plan.planned_mib,
            limit_mib=budget,
            wired_limit_mib=limit.planned_mib,
            margin_mib=budget - plan.planned_mib,
            margin_percent=_percent(budget - plan.planned_mib, budget),
            binding=f"the rule {ruled}" if ruled else "the engine's own budget",
            largest_context=0 if ruled else largest,
            first_failure=_FAILS,
            fix=fix_for(case, refused),
            reasons=tuple(case.against) or (Reason("streams", good, plan.speed_source or SOURCE),),
            warnings=tuple(self.warnings(True)),
            estimate=need,
            streaming=plan,
        )

    def streaming_plan(self, ctx: int, fixed: int, budget: int, limit_mib: int) -> StreamingPlan:
        """With as many experts as fit, and the cap that the engine accepts: it has the two layers in it."""
        head = v41.headroom_bytes(self.family.shape.experts, self.expert_bytes)
        graph = self.need(ctx).context_buffers_bytes
        fits = ((budget - fixed) * MIB + head) // GIB
        # The largest that the engine accepts by hand.
        accepted = (limit_mib * MIB * 7 // 8 - graph) // GIB
        cap = int(self.request.cache_gib or max(0, min(fits, accepted)))
        decode, prefill, source = streaming_speed(self.mac, self.model.family, self.model.quant)
        return StreamingPlan(
            cache_gib=cap,
            cache_flag=f"{cap}GB",
            planned_mib=fixed + ceil_mib(self.experts(cap) * self.expert_bytes),
            non_routed_mib=ceil_mib(self.family.non_routed_bytes),
            context=ctx,
            decode_tps=decode,
            prefill_tps=prefill,
            speed_source=source,
            wear=str(policy()["streaming"]["wear"]),
        )

    def experts(self, cap_gib: int) -> int:
        """Those that a cap holds."""
        head = v41.headroom_bytes(self.family.shape.experts, self.expert_bytes)
        return v41.experts_of_cap(cap_gib, head, self.expert_bytes)

    # Both.

    def common_rules(self, case: Case, mode: str) -> None:
        engine_rules(case, self.request, self.model, self.known, mode)
        if self.request.sidecar:
            sidecar_rules(case, self.request, self.model, self.known)
        most = self.family.most_sessions
        if most and self.request.sessions > most:
            text = f"the engine holds {most} sessions of {self.family.title} at most."
            case.object(Reason("sessions", text, SOURCE), f"lower ds4_sessions to {most}", True)
        other_metal_rule(case, self.mac)
        limit_rule(case, self.mac, self.request)

    def beside(self, budget: int, limit_mib: int) -> str:
        """What takes the budget below the engine's own."""
        engine = v41.budget_bytes(self.mac.memory_mib * MIB, limit_mib * MIB) // MIB
        return f" (beside the system{others_beside(self.mac)})" if budget < engine else ""

    def warnings(self, streams: bool) -> list[str]:
        tables = f"{self.family.on_disk_bytes / GIB:.0f} GiB of tables"
        found = [f"the engine reads {tables} from the SSD while it serves: keep the file on an internal one"]
        if streams and self.request.sessions > 1:
            found.append("streaming serves one session after another: more of them only take memory")
        if streams and self.mac.memory_gb < 128:
            found.append("there is no report of a Mac with less than 128 GB")
        if streams:
            found.append(str(policy()["streaming"]["wear"]))
        if self.request.sidecar:
            found.append(f"what {self.request.sidecar} takes beside its weights has not been published")
        if self.request.prefill_chunk:
            found.append(f"ds4_prefill_chunk has no part in what {self.family.title} is known to take")
        if self.mac.other_metal:
            found.append(f"{', '.join(self.mac.other_metal)} also uses the GPU here")
        if self.request.override:
            found.append(
                f"ds4_memory_override changes nothing: the engine itself refuses ({self.request.override})"
            )
        return found


def _percent(margin: int, budget: int) -> float:
    return round(100 * margin / budget, 1) if budget > 0 else -100.0


__all__ = ["judge"]
