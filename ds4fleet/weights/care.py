"""`fab weights verify` and `prune`: playbooks/weights.yml behind a table, and a question before deleting."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from ds4agent.border import bounded_json
from ds4agent.upgrade_state import UNFINISHED
from ds4fleet import console
from ds4fleet.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_UNREACHABLE, OperatorError
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.remote import observe, playbook
from ds4fleet.upgrade import journal
from ds4fleet.upgrade import run as upgrade

GB = 10**9
MB = 10**6
#: What a Mac may have reported of its files.
REPORT_BYTES = 16 * 1024 * 1024
#: Between two looks at how far the Macs are.
LOOK_S = 2
SERVED = "served"


@dataclass(frozen=True)
class Finding:
    """One file on one Mac as the module ds4_weights_store found it; see there for `state`."""

    host: str
    name: str
    bytes: int
    state: str
    why: str = ""
    used: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What a run of the playbook found. silent: Macs without an answer; refusals: sentences by Mac."""

    findings: list[Finding]
    silent: list[str]
    refusals: dict[str, str]
    safe: list[str]

    @property
    def exit_code(self) -> int:
        """0 only when every Mac answered, none refused, and every file is what it should be."""
        if self.silent:
            return EXIT_UNREACHABLE
        failed = self.refusals or any(one.state in ("wrong", "changed") for one in self.findings)
        return EXIT_FAILED if failed else 0


def verify(
    *, host: str = "", region: str = "", limit: str = "", file: str = "", json_out: bool = False
) -> int:
    """Hashes the weights of the selected Macs anew, or only `file`; stamps are renewed or withdrawn.

    Returns EXIT_FAILED when a file is not what it should be, EXIT_UNREACHABLE when a Mac does not answer.
    """
    hosts = Fleet.select(host=host, region=region, limit=limit).hosts
    values = {"ds4_weights_action": "verify", "ds4_weights_names": [file] if file else []}
    report = _run(hosts, values, watched=not json_out)
    if file and not report.findings and not report.silent and not report.refusals:
        raise OperatorError(f"{file} is on none of these Macs; `fab weights list` says what is where.")
    _show(report, json_out, "")
    if not json_out:
        for sentence in advice(report.findings):
            console.out.print(console.line(sentence), style="red", soft_wrap=True)
    return report.exit_code


def advice(findings: Sequence[Finding]) -> list[str]:
    """What to do about each file that is not what it should be."""
    sentences = []
    for one in findings:
        if one.state == "changed":
            sentences.append(f"{one.host}: {one.name} {one.why.removeprefix('it ')}; verify it again.")
        if one.state != "wrong":
            continue
        said = f"{one.host}: {one.name} is not what it should be: {one.why}. Its stamp is withdrawn"
        if SERVED in one.used:
            sentences.append(
                f"{said}; it is BEING SERVED and was not touched. Bring a good copy beside it with"
                f" `fab prefetch -l {one.host}` (the wrong one is kept aside), then restart the engine on the"
                " Mac: `sudo launchctl kickstart -k system/com.ds4fleet.server`."
            )
        else:
            sentences.append(
                f"{said}, so it will not be served; `fab prefetch -l {one.host}` brings it again."
            )
    return sentences


def prune(
    *,
    host: str = "",
    region: str = "",
    limit: str = "",
    wrong: bool = False,
    prefetched: bool = False,
    yes: bool = False,
    json_out: bool = False,
) -> int:
    """Show what is not needed on the selected Macs, ask, and delete it.

    wrong: copies kept aside too. prefetched: also what was prefetched and is not used yet. Raises
    OperatorError where ds4_safe_mode is true or a rollout is under way, before anything is deleted.
    """
    hosts = Fleet.select(host=host, region=region, limit=limit).hosts
    also = {"ds4_weights_prune_wrong": wrong, "ds4_weights_prune_prefetched": prefetched}
    values = {"ds4_weights_action": "prune", **also}
    report = _run(hosts, values, "--check")
    if not (json_out and yes):
        _show(report, json_out, _summary(report.findings, "free"))
    agreed: dict[str, list[str]] = {}
    for one in report.findings:
        if one.state == "free" and one.host not in report.refusals:
            agreed.setdefault(one.host, []).append(one.name)
    if not agreed or (json_out and not yes):
        return report.exit_code
    _refuse(report, agreed)
    if not console.confirm("Delete these?", yes=yes):
        return 0
    chosen = [one for one in hosts if one.name in agreed]
    done = _run(chosen, {**values, "__ds4_agreed": agreed})
    _show(done, json_out, _summary(done.findings, "freed"))
    return done.exit_code or report.exit_code


def _refuse(report: Report, agreed: Mapping[str, Any]) -> None:
    last = journal.latest(upgrade.ROLLOUTS)
    if last is not None and last.progress().phase in UNFINISHED:
        macs_of_it = set(last.rollout().hosts) & set(agreed)
        if macs_of_it:
            raise OperatorError(
                f"rollout {last.folder.name} is {last.progress().phase} on {', '.join(sorted(macs_of_it))};"
                " finish it first: nothing was deleted.",
                exit_code=EXIT_REFUSED,
            )
    safe = sorted(set(report.safe) & set(agreed))
    if safe:
        raise OperatorError(
            f"ds4_safe_mode is true for {', '.join(safe)}: nothing was deleted; set it to false in the"
            " inventory until it is done.",
            exit_code=EXIT_REFUSED,
        )


def _run(hosts: Sequence[Host], values: Mapping[str, Any], *arguments: str, watched: bool = False) -> Report:
    """Runs the playbook on these Macs and gathers what each found; `watched` shows how far they are."""
    with tempfile.TemporaryDirectory(prefix="ds4-weights-") as name:
        folder = Path(name)
        names = [one.name for one in hosts]
        with (folder / "output").open("w+") as output:
            with playbook.running(
                "weights",
                names,
                {**values, "__ds4_store_reports": name},
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as run:
                if watched and console.out.is_terminal:
                    _watch(hosts, run.process)
            output.seek(0)
            said = output.read()
        report = gather(names, folder)
    if len(report.silent) == len(hosts) and run.status != EXIT_UNREACHABLE:
        raise OperatorError("playbooks/weights.yml did not get as far as the Macs.", detail=said)
    return report


def gather(hosts: Sequence[str], folder: Path) -> Report:
    """The report of a run from the files <host>.json that the action ds4_weights_store left."""
    report = Report([], [], {}, [])
    for host in hosts:
        path = folder / f"{host}.json"
        if not path.exists():
            report.silent.append(host)
            continue
        try:
            told = bounded_json.mapping(path.read_bytes(), max_bytes=REPORT_BYTES)
            if "files" not in told:
                report.refusals[host] = str(told.get("msg", "it failed"))
                continue
            findings = [_finding(host, file) for file in told["files"]]
            safe, held_by = bool(told["safe_mode"]), str(told["held_by"] or "")
        except (bounded_json.JsonError, KeyError, TypeError):
            report.refusals[host] = "what it reported makes no sense"
            continue
        if safe:
            report.safe.append(host)
        if held_by:
            report.refusals[host] = held_by
        report.findings.extend(findings)
    return report


def _finding(host: str, told: Mapping[str, Any]) -> Finding:
    """One file as a Mac tells of it. Raises KeyError or TypeError."""
    size = bounded_json.count(told["bytes"])
    used = told.get("used", [])
    if size is None or not isinstance(used, list):
        raise TypeError("not a finding")
    words = [str(told["name"]), str(told["state"]), str(told.get("why", ""))]
    return Finding(host, words[0], size, words[1], words[2], [str(one) for one in used])


def _watch(hosts: Sequence[Host], running: subprocess.Popen[bytes]) -> None:
    with Live(
        _progress([observe.Answer(host, None) for host in hosts]), console=console.out, refresh_per_second=2
    ) as live:
        while running.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(LOOK_S)
            live.update(_progress(observe.ask(hosts, "verifying")))


def _progress(answers: Sequence[observe.Answer]) -> Table:
    shown = console.table("", "host", "reads", "done", "of", "rate")
    for answer in answers:
        said = answer.document.verifying if answer.document else None
        if said is None or not said.total_bytes:
            shown.add_row(answer.host.name, "-", "-", "-", "-")
            continue
        shown.add_row(
            answer.host.name,
            said.file[:200],
            f"{100 * said.done_bytes / said.total_bytes:.1f} %",
            f"{said.total_bytes / GB:,.2f} GB",
            f"{said.bytes_per_s / MB:,.0f} MB/s",
        )
    return shown


def _show(report: Report, json_out: bool, caption: str) -> None:
    if json_out:
        console.print_json(asdict(report))
        return
    shown = console.table("", "host", "file", "size", "state", "why", "used by")
    for one in report.findings:
        size, used = f"{one.bytes / GB:,.2f} GB", ", ".join(one.used) or "-"
        shown.add_row(one.host, one.name, size, one.state, one.why or "-", used)
    shown.caption, shown.caption_justify = caption or None, "left"
    console.out.print(shown)
    for host in report.silent:
        console.out.print(f"{host}: no answer", style="red")
    for host, sentence in report.refusals.items():
        console.out.print(f"{host}: {console.line(sentence)}", style="red", soft_wrap=True)


def _summary(findings: Sequence[Finding], state: str) -> str:
    freed = [one for one in findings if one.state == state]
    total = sum(one.bytes for one in freed) / GB
    verb = "would free" if state == "free" else "freed"
    return f"{verb} {total:,.2f} GB in {len(freed)} files on {len({one.host for one in freed})} Macs"
