"""The orders that ds4agent.switch on a Mac takes, made from a plan and a host's variables. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ds4agent.border import shaped
from ds4fleet.components import scripts, wired_limit
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.layout import Paths
from ds4fleet.plan.types import HostPlan


def order(
    plan: HostPlan,
    settings: Mapping[str, Any],
    *,
    run_id: str,
    attempt: int,
    now_s: float,
) -> dict[str, object]:
    """The order that brings a Mac to its plan.

    plan: of a Mac that serves, with the engine built and the weights in place. settings: the host's variables
    with the role's defaults. attempt: how often this run has tried this Mac. Raises OperatorError for a plan
    of a Mac that serves nothing.
    """
    server, engine, weights, disk = plan.server, plan.engine, plan.weights, plan.disk
    if server is None or engine is None or weights is None or disk is None or plan.verify is None:
        raise OperatorError(f"{plan.host}: its plan has no server to switch to; see `fab plan`")
    paths = Paths(str(settings["ds4_root"]))
    labels = (server.label, paths.label(wired_limit.JOB))
    replaced = {paths.config, paths.start, paths.wired, *map(paths.plist, labels)}
    if weights.link:
        replaced.add(weights.link.path)
    files: list[dict[str, object]] = [
        {key: getattr(entry, key) for key in ("path", "kind", "content", "target", "owner", "group", "mode")}
        for entry in map(scripts.with_content, plan.files)
        if entry.path in replaced
    ]
    release = f"releases/{engine.release_id}"
    files.append({"path": engine.current, "kind": "link", "target": release})
    serving = engine.serving
    if serving and serving != engine.release_id:
        files.append({"path": f"{paths.engine}/previous", "kind": "link", "target": f"releases/{serving}"})
    user = str(settings["ds4_service_user"])
    proven = [item.path for item in weights.files if item.kind != "split"]
    told, kept = (
        shaped.to_json(server),
        ("label", "argv", "host", "port", "kv_dir", "config_path", "log_path"),
    )
    return {
        "schema": 1,
        "id": f"{run_id}.{attempt}",
        "run_id": run_id,
        "kind": "upgrade",
        "issued_at_s": now_s,
        "target": {
            "files": files,
            "wired_limit_mib": plan.memory.wired_limit_mib if plan.memory else 0,
            "kv_dir": server.kv_dir,
            "proof": {
                "server": {key: told[key] for key in kept},
                "verify": shaped.to_json(plan.verify),
                "weights": proven,
            },
        },
        "kv": {"owner": user, "group": user, "before_bytes": disk.kv_before_bytes},
        "settings": limits(settings),
    }


def limits(settings: Mapping[str, Any]) -> dict[str, float]:
    """The settings of an order (switch.core.SETTINGS) from a host's variables.

    Raises OperatorError for a value that is invalid.
    """
    return {
        "drain_s": _seconds(settings, "ds4_drain_s"),
        "notice_s": _seconds(settings, "ds4_drain_notice_s"),
        "speed_ratio": _ratio(settings, "ds4_gate_speed_ratio"),
        "min_healthy_s": _seconds(settings, "ds4_min_healthy_s"),
        # A Mac that cannot be confirmed in time would roll back for nothing.
        "hold_s": _seconds(settings, "ds4_upgrade_hold_s", least=1),
        "pause_s": _seconds(settings, "ds4_upgrade_pause_s", least=1),
    }


def _seconds(settings: Mapping[str, Any], name: str, least: int = 0) -> int:
    value = str(settings[name])
    if not value.isdigit() or int(value) < least:
        raise OperatorError(f"{name} is {value}; write whole seconds from {least}", exit_code=EXIT_USAGE)
    return int(value)


def _ratio(settings: Mapping[str, Any], name: str) -> float:
    try:
        value = float(settings[name])
    except (TypeError, ValueError):
        value = -1.0
    if not 0 < value <= 1:
        raise OperatorError(
            f"{name} is {settings[name]}; write a share of the speed before, above 0 and up to 1",
            exit_code=EXIT_USAGE,
        )
    return value
