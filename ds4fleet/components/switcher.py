"""What switches versions on a Mac as files and a launchd job, and the orders that it takes. Pure.

What it does on the Mac is in ds4agent.switch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ds4fleet.components import agent, base, scripts
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.components.shapes import FileEntry
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.layout import LABEL_SERVER, LABEL_WIRED, Paths

LABEL_SWITCH = "com.ds4fleet.switch"
STAGE = "service"


def folder(root: str) -> str:
    """Where it keeps its journal; root's own."""
    return f"{root}/var/switch"


def _folders(root: str) -> tuple[str, ...]:
    return (root, f"{root}/libexec", f"{root}/var", folder(root))


def watched(paths: Paths, named: Named) -> Watched:
    """With the note that a Mac is drained: an upgrade must not meet that."""
    files = (*_folders(paths.root), f"{folder(paths.root)}/drain.json", Paths.plist(LABEL_SWITCH))
    return Watched(files, (LABEL_SWITCH,))


def entries(plan: Decided) -> Part:
    """There on a Mac that serves, gone from any other."""
    if not plan.serves:
        return base.absent(LABEL_SWITCH, stage=STAGE)
    root = plan.paths.root
    plist = base.plist(
        LABEL_SWITCH,
        stage=STAGE,
        ProgramArguments=agent.argv(root, "switch", root),
        # At boot it mends a switch that was cut off; otherwise it ends at once.
        RunAtLoad=True,
        KeepAlive={"SuccessfulExit": False},
        ProcessType="Interactive",
        ExitTimeOut=10,
        StandardOutPath="/var/log/ds4/switch.log",
        StandardErrorPath="/var/log/ds4/switch.log",
    )
    files = [base.folder(path, stage=STAGE) for path in _folders(root)]
    # Its code is read at each start; a restart because of a new one would cut a switch off.
    return Part([*files, plist], [base.job(LABEL_SWITCH, "loaded", [plist.path], stage=STAGE)])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, Any]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    files = (paths.root, Paths.plist(LABEL_SWITCH))
    return Removed(labels=(LABEL_SWITCH,), files=files, trees=(paths.var, paths.libexec))


def order(
    plan: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    run_id: str,
    attempt: int,
    now_s: float,
) -> dict[str, Any]:
    """The order that brings a Mac to its plan.

    plan: HostPlan as a dict, of a Mac that serves, with the engine built and the weights in place. settings:
    the host's variables with the role's defaults. attempt: how often this run has tried this Mac.
    """
    server, engine = plan["server"], plan["engine"]
    paths = Paths(str(settings["ds4_root"]))
    link = (plan["weights"].get("link") or {}).get("path")
    replaced = {paths.config, paths.start, paths.plist(LABEL_SERVER), link}
    replaced |= {paths.plist(LABEL_WIRED), paths.wired}
    files = [
        {key: getattr(entry, key) for key in ("path", "kind", "content", "target", "owner", "group", "mode")}
        for entry in map(scripts.with_content, map(FileEntry.from_json, plan["files"]))
        if entry.path in replaced
    ]
    release = f"releases/{engine['release_id']}"
    files.append({"path": engine["current"], "kind": "link", "target": release})
    serving = engine["serving"]
    if serving and serving != engine["release_id"]:
        files.append({"path": f"{paths.engine}/previous", "kind": "link", "target": f"releases/{serving}"})
    user = str(settings["ds4_service_user"])
    weights = [item["path"] for item in plan["weights"]["files"] if item["kind"] != "split"]
    kept = ("label", "argv", "host", "port", "kv_dir", "config_path", "log_path")
    return {
        "schema": 1,
        "id": f"{run_id}.{attempt}",
        "run_id": run_id,
        "kind": "upgrade",
        "issued_at_s": now_s,
        "target": {
            "files": files,
            "wired_limit_mib": int((plan.get("memory") or {}).get("wired_limit_mib") or 0),
            "kv_dir": server["kv_dir"],
            "proof": {
                "server": {key: server[key] for key in kept},
                "verify": plan["verify"],
                "weights": weights,
            },
        },
        "kv": {"owner": user, "group": user, "before_bytes": plan["disk"]["kv_before_bytes"]},
        "settings": limits(settings),
    }


def limits(settings: Mapping[str, Any]) -> dict[str, float]:
    """The settings of an order (switch.core.SETTINGS) from a host's variables.

    Raises OperatorError for a value that is invalid.
    """
    return {
        "drain_s": _seconds(settings, "ds4_drain_s"),
        "told_s": _seconds(settings, "ds4_drain_told_s"),
        "speed_ratio": _ratio(settings, "ds4_gate_speed_ratio"),
        "min_healthy_s": _seconds(settings, "ds4_min_healthy_s"),
        # A Mac that nobody can confirm in time would go back for nothing.
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
