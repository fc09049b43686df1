"""What a rollout would do and what it came to, as tables for people and as records for `rollouts/`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ds4agent.upgrade_state import ENDED, UpgradeState
from ds4fleet import console
from ds4fleet.upgrade import codes
from ds4fleet.upgrade.codes import Code
from ds4fleet.upgrade.controller_lock import Holder
from ds4fleet.upgrade.journal import Journal
from ds4fleet.upgrade.rollout import Rollout
from ds4fleet.upgrade.snapshot import Snapshot

GB = 10**9


def show_plan(planned: Rollout) -> Table:
    """The table that `fab upgrade` and `fab rollback` ask about."""
    title = f"{planned.kind.capitalize()} {planned.run_id}"
    shown = console.table(title, "wave", "host", "region", "from", "to", "to fetch")
    for number, wave in enumerate(planned.waves, 1):
        for host in wave.hosts:
            old, new = planned.changes[host]
            size = planned.to_fetch_bytes[host]
            shown.add_row(
                "canary" if wave.canary else str(number),
                host,
                wave.region,
                old.short() if old else "-",
                new.short(),
                f"{size / GB:,.1f} GB" if size else "-",
            )
    for skip in planned.skipped:
        shown.add_row("-", skip.host, "", "", f"skipped: {skip.reason}", "")
    total = sum(planned.to_fetch_bytes.values()) / GB
    most = max(len(wave.hosts) for wave in planned.waves)
    first = f"{total:,.1f} GB to fetch first, then " if total else "nothing to fetch, "
    summary = (
        f"{_macs(len(planned.hosts))}, {first}about {max(1, round(planned.expected_minutes))} min"
        f" of switching in {len(planned.waves)} waves of at most {_macs(most)},"
        " and what answers under way take"
    )
    shown.caption = "\n".join([summary, *planned.notes])
    shown.caption_justify = "left"
    return shown


def plan_record(planned: Rollout) -> dict[str, Any]:
    """The same for machines: one entry per Mac in the order of the switches, waves, skipped Macs, notes."""
    hosts = []
    for number, wave in enumerate(planned.waves, 1):
        for host in wave.hosts:
            old, new = planned.changes[host]
            hosts.append(
                {
                    "host": host,
                    "region": wave.region,
                    "wave": number,
                    "canary": wave.canary,
                    "from": old.short() if old else None,
                    "to": new.short(),
                    "to_fetch_bytes": planned.to_fetch_bytes[host],
                }
            )
    return {
        "run_id": planned.run_id,
        "kind": planned.kind,
        "hosts": hosts,
        "waves": [list(wave.hosts) for wave in planned.waves],
        "skipped": [{"host": skip.host, "reason": skip.reason} for skip in planned.skipped],
        "expected_minutes": round(planned.expected_minutes, 1),
        "notes": list(planned.notes),
    }


def report(journal: Journal) -> dict[str, Any]:
    """What a rollout came to: per Mac its phase, outage, gate values before and after, bytes, reverts.

    outage_s is the sum over all attempts; it is None while nothing is known of any.
    """
    planned, progress = journal.rollout(), journal.progress()
    entries = journal.entries()
    hosts = []
    for host in planned.hosts:
        old, new = planned.changes[host]
        values = progress.values.get(host, {})
        attempts = _attempts(entries, host)
        outages = [one["outage_s"] for one in attempts if one["outage_s"] is not None]
        hosts.append(
            {
                "host": host,
                "from": old.short() if old else None,
                "to": new.short(),
                "phase": str(progress.of(host)),
                "fetched_bytes": planned.to_fetch_bytes[host],
                "outage_s": round(sum(outages), 2) if outages else None,
                "before": values.get("before"),
                "after": values.get("after"),
                "attempts": max(len(attempts), int(values.get("attempt", 0))),
                "reverts": sum(one["phase"] == UpgradeState.REVERTED for one in attempts),
                "why": values.get("why", ""),
            }
        )
    return {
        "run_id": planned.run_id,
        "kind": planned.kind,
        "phase": str(progress.phase),
        "reason": progress.reason,
        "began_at": entries[0]["at"] if entries else planned.created_at,
        "ended_at": entries[-1]["at"] if entries and progress.phase in ENDED else None,
        "hosts": hosts,
        "skipped": [{"host": skip.host, "reason": skip.reason} for skip in planned.skipped],
        "reverts": sum(one["reverts"] for one in hosts),
    }


def _attempts(entries: Sequence[Mapping[str, Any]], host: str) -> list[dict[str, Any]]:
    """The ended switches of a Mac, each once, as the last line about it says."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.get("host") == host:
            found.update({one["id"]: one for one in entry.get("attempts", ())})
    return list(found.values())


def write(journal: Journal) -> None:
    """Brings rollouts/RUN/report.json up to date; several processes may do so at once."""
    partial = journal.folder / f"report.{os.getpid()}.part"
    partial.write_text(json.dumps(report(journal), indent=1))
    partial.rename(journal.folder / "report.json")


def show(record: Mapping[str, Any]) -> Table:
    """The table at the end of a rollout."""
    columns = (
        "host",
        "phase",
        "to",
        "fetched",
        "outage s",
        "tokens/s before",
        "after",
        "headroom MiB before",
        "after",
        "reverts",
        "",
    )
    shown = console.table(f"{record['kind'].capitalize()} {record['run_id']}: {record['phase']}", *columns)
    for mac in record["hosts"]:
        before, after = mac["before"] or {}, mac["after"] or {}
        shown.add_row(
            mac["host"],
            mac["phase"],
            mac["to"],
            f"{mac['fetched_bytes'] / GB:,.1f} GB" if mac["fetched_bytes"] else "-",
            figure(mac["outage_s"]),
            figure(before.get("tokens_per_s")),
            figure(after.get("tokens_per_s")),
            figure(before.get("headroom_mib")),
            figure(after.get("headroom_mib")),
            str(mac["reverts"]),
            str(mac["why"]).partition("\n")[0],
        )
    for skip in record["skipped"]:
        shown.add_row(skip["host"], "skipped", skip["reason"])
    return shown


def reason(record: Mapping[str, Any]) -> str:
    """Why a rollout stopped and what to do about it, in a line; empty where it did not."""
    text = str(record["reason"]).partition("\n")[0]
    code = text.partition(":")[0]
    remedy = codes.REMEDY[Code(code)] if code in set(Code) else ""
    return f"{text}; {remedy}".strip("; ")


def show_macs(snapshots: Sequence[Snapshot], run_id: str) -> Table:
    """What the Macs themselves say, for `--status`."""
    shown = console.table("", "host", "serves", "last switch", "", "lock")
    for one in snapshots:
        if not one.reachable:
            shown.add_row(one.host, console.styled(f"no answer: {one.why}", "red"))
            continue
        state = f"{one.phase}{', drained' if one.drained else ''}" if one.phase or one.drained else "-"
        held = str(one.lock) if one.lock else "-"
        shown.add_row(
            one.host,
            one.serves.short() if one.serves else "-",
            one.run_id or "-",
            state,
            console.styled(held, "yellow" if one.lock and one.lock.run_id != run_id else ""),
        )
    return shown


def macs_record(snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [
        {
            "host": one.host,
            "reachable": one.reachable,
            "serves": one.serves.short() if one.serves else None,
            "before": one.before.short() if one.before else None,
            "last_run": one.run_id or None,
            "phase": one.phase or None,
            "reason": one.reason,
            "drained": one.drained,
            "lock": vars(one.lock) if one.lock else None,
        }
        for one in snapshots
    ]


def holder_record(held: Holder | None) -> dict[str, Any] | None:
    """Who holds the controller's lock, for machines."""
    return vars(held) if held else None


def show_history(records: Sequence[Mapping[str, Any]]) -> Table:
    """One line per rollout."""
    shown = console.table("", "run", "kind", "to", "Macs", "done", "reverts", "longest outage s", "ended")
    for record in records:
        macs = record["hosts"]
        shown.add_row(
            record["run_id"],
            record["kind"],
            ", ".join(sorted({mac["to"] for mac in macs})),
            str(len(macs)),
            str(sum(mac["phase"] == UpgradeState.DONE for mac in macs)),
            str(record["reverts"]),
            figure(max((mac["outage_s"] or 0.0 for mac in macs), default=0.0)),
            record["phase"] + (f" ({record['reason'].partition(':')[0]})" if record["reason"] else ""),
        )
    return shown


def figure(value: Any) -> str:
    """A number for a table; - where there is none."""
    return f"{value:,.1f}" if isinstance(value, float) else str(value) if value is not None else "-"


def _macs(count: int) -> str:
    return f"{count} Mac{'' if count == 1 else 's'}"
