"""`fab plan`: what each Mac is to run and why, from the inventory; and what a Mac that is not there yet
could do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ds4fleet import console
from ds4fleet.components.base import Targets
from ds4fleet.components.shapes import MemoryPlan
from ds4fleet.errors import EXIT_REFUSED
from ds4fleet.fleetview import what_if as purchase
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.plan.kept import FACTS, make_plans
from ds4fleet.plan.types import HostPlan
from ds4fleet.tunnel import leading

GB = 10**9


def run(
    host: str = "",
    region: str = "",
    limit: str = "",
    model: str = "",
    ctx: str = "",
    json: bool = False,
    what_if: str = "",
    facts: Path | None = None,
) -> int:
    """Prints the plans of the selected Macs, or with `what_if` what such a Mac could do with `model`.

    model, ctx: as ds4_model and ds4_context for this question. Returns 0, or 3 when a plan refuses. Raises
    OperatorError for names that the inventory does not know and for a Mac that cannot be read from `what_if`.
    """
    if what_if:
        return purchase.run(what_if, model=model, ctx=ctx, json=json)
    chosen = Fleet.select(host=host, region=region, limit=limit)
    plans = make_plans(chosen.hosts, overrides(model, ctx), facts or FACTS, _targets)
    if json:
        console.print_json([plan.to_dict() for plan in plans])
    else:
        print_plans(plans)
    return EXIT_REFUSED if any(plan.refused for plan in plans) else 0


def _targets(host: Host) -> Targets | None:
    """Where a jump Mac leads, by the whole inventory: what site.yml does to it is in its plan."""
    found, trouble = leading.known_targets(host, Fleet.load)
    for sentence in trouble:
        console.err.print(f"{host.name}: {sentence}", soft_wrap=True)
    return found


def overrides(model: str, ctx: str) -> dict[str, Any]:
    """The question's own answers to ds4_model and ds4_context, where it has them."""
    asked: dict[str, Any] = {}
    if model:
        asked["ds4_model"] = model
    if ctx:
        asked["ds4_context"] = ctx
    return asked


def print_plans(plans: Sequence[HostPlan]) -> None:
    """The table by region, and under it what is refused and what is to be known."""
    console.out.print(plan_table(plans))
    for title, pick in (("Refused", "refusals"), ("Differences", "differences"), ("To know", "warnings")):
        lines = list(dict.fromkeys(_said(plan, text) for plan in plans for text in getattr(plan, pick)))
        if lines:
            console.out.print(f"\n{title}", style="bold")
            for line in lines:
                console.out.print(f"  {console.line(line)}")
    if any(plan.speed for plan in plans):
        console.out.print(
            "\nSpeeds were published elsewhere for the same chip, not measured here"
            " (* by another engine generation)."
        )
    if any(plan.sources and plan.sources.hardware == "declared" for plan in plans):
        console.out.print(
            "From the declared hardware; `fab observe` lets the next plan use what the Macs say."
        )


def plan_table(plans: Sequence[HostPlan]) -> Table:
    """Region, Mac, memory, limit, role, model, context, KV, disk, speed and verdict of each plan."""
    made = console.table(
        "The plan", "Region", "Mac", "Machine", "Limit MiB", "Role", "Model", "Context", "KV", "Disk",
        "Tokens/s", "Verdict",
    )  # fmt: skip
    last = None
    for plan in plans:
        region = plan.region if plan.region != last else ""
        last = plan.region
        made.add_row(
            region,
            plan.host,
            _machine(plan),
            limit_text(plan),
            plan.role,
            _model(plan),
            _context(plan),
            f"{_volume(plan, 'kv')}",
            _disk(plan),
            _speed(plan),
            _verdict(plan),
        )
    return made


def limit_text(plan: HostPlan) -> str:
    """'stock' or a number; 'now -> planned' where they differ and the first is known."""
    memory = plan.memory or MemoryPlan()
    planned, live = memory.wired_limit_mib, memory.live_wired_limit_mib
    text = f"{planned:,}" if planned else "stock"
    if live is None or live == planned:
        return text
    return f"{live:,} -> {text}" if live else f"stock -> {text}"


def _machine(plan: HostPlan) -> str:
    if plan.sources:
        return plan.sources.machine
    return f"{plan.memory.memory_mib // 1024 if plan.memory else 0} GB"


def _model(plan: HostPlan) -> str:
    if plan.model is None:
        return "-"
    return plan.model.id + (" (SSD)" if plan.mode == "streaming" else "")


def _context(plan: HostPlan) -> str:
    if not plan.context:
        return "-"
    return f"{plan.context:,} of {plan.memory.largest_context if plan.memory else 0:,}"


def _volume(plan: HostPlan, purpose: str) -> str:
    return next((f"{one.quota_bytes // GB} GB" for one in plan.volumes if one.purpose == purpose), "-")


def _disk(plan: HostPlan) -> str:
    if plan.disk is None:
        return "-"
    free, wanted = plan.disk.available_bytes, plan.disk.wanted_bytes // GB
    return f"{wanted} of {free // GB} GB" if free else f"{wanted} GB"


def _speed(plan: HostPlan) -> str:
    if plan.speed is None:
        return "-"
    return plan.speed.text + ("" if plan.speed.same_generation else "*")


def _verdict(plan: HostPlan) -> str:
    if plan.refused:
        return "REFUSED"
    memory = plan.memory or MemoryPlan()
    text, percent = memory.sentence or plan.role, memory.margin_percent
    if memory.overridden:
        text += f" (override: {memory.overridden})"
    if plan.role == "serve" and percent is not None:
        text += f", {percent:g} % left"
    return text


def _said(plan: HostPlan, text: str) -> str:
    return text if text.startswith(f"{plan.host}: ") else f"{plan.host}: {text}"
