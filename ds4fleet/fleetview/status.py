"""What each Mac is doing now: one ssh per Mac, all at once, read-only, without Python on the far side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from ds4agent.border import bounded_json
from ds4agent.engine import models as engine_models
from ds4fleet.console import line, styled, table
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Host
from ds4fleet.layout import Paths
from ds4fleet.remote import shell

_MORE_AT_ONCE_THAN_A_FLEET = 32
#: Each answer stands behind a mark of macs.hear, so that no tool's output can be taken for another's.
_SCRIPT = """\
mark() {{ printf '\\n@@%s\\n' "$1"; }}
mark macos; /usr/bin/sw_vers -productVersion
mark boot; /usr/sbin/sysctl -n kern.boottime
mark wired; /usr/sbin/sysctl -n iogpu.wired_limit_mb
mark release; /usr/bin/readlink {root}/engine/current
mark job; /bin/launchctl print system/com.ds4fleet.server 2>/dev/null
mark models; /usr/bin/curl -sS -m 5 http://127.0.0.1:{port}/v1/models 2>/dev/null | /usr/bin/head -c {most}
mark guard; /bin/cat {root}/guard/stopped 2>/dev/null
mark mounts; /usr/bin/head -c 4096 {mounts} 2>/dev/null
mark limit; /usr/bin/head -c 4096 {wired} 2>/dev/null
mark now; /bin/date +%s
"""


@dataclass(frozen=True)
class Status:
    """What one Mac said. `trouble` is empty when it answers and its engine does what its job is there for."""

    host: str
    region: str
    layer: str
    reachable: bool
    trouble: str = ""
    macos: str = ""
    up_s: int = 0
    wired_limit_mib: int = 0
    release: str = ""
    job: str = ""
    pid: int = 0
    models: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What its boot jobs found or still wait for, while the engine answers all the same."""
    context: int = 0


def parse(host: Host, output: str) -> Status:
    """The status of a Mac from the script's output."""
    parts = dict(re.findall(r"^@@(\w+)\n(.*?)(?=\n@@|\Z)", output, re.M | re.S))
    text = {name: part.strip() for name, part in parts.items()}
    booted = re.search(r"sec = (\d{1,18})", text.get("boot", ""))
    now_s = bounded_json.count(text.get("now"))
    job = re.search(r"^\s*state = (.{1,100})$", text.get("job", ""), re.M)
    pid = re.search(r"^\s*pid = (\d{1,18})$", text.get("job", ""), re.M)
    code = re.search(r"^\s*last exit code = (\d{1,18})", text.get("job", ""), re.M)
    offered, odd = _offered(text.get("models", ""))
    state = job[1] if job else ""
    trouble = ""
    if state and not offered:
        trouble = f"the job is '{state}' but the engine does not answer"
        if odd:
            trouble = f"the job is '{state}' but the answer at the engine's port {odd}"
        if code and code[1] != "0":
            trouble += f" (last exit code {code[1]})"
    boot = text.get("mounts", "") + "\n" + text.get("limit", "")
    waits = re.findall(r"^reason=(.{1,500})$", boot, re.M)
    notes = re.findall(r"^note=(.{1,500})$", boot, re.M)
    if state and not offered and waits:
        trouble = "; ".join(waits)
    else:
        notes = waits + notes
    stopped = re.search(r"^reason=(.{1,500})$", text.get("guard", ""), re.M)
    if stopped and not offered:
        trouble = f"the guard stopped the engine: {stopped[1]}"
    return Status(
        host=host.name,
        region=host.region,
        layer=host.layer,
        reachable=True,
        trouble=trouble,
        macos=text.get("macos", "")[:40],
        up_s=now_s - int(booted[1]) if booted and now_s else 0,
        wired_limit_mib=bounded_json.count(text.get("wired")) or 0,
        release=text.get("release", "").rpartition("/")[2][:80],
        job=state,
        pid=int(pid[1]) if pid else 0,
        models=[str(model["id"]) for model in offered],
        notes=notes,
        context=max((int(model["context_length"] or 0) for model in offered), default=0),
    )


def _offered(body: str) -> tuple[Sequence[Mapping[str, Any]], str]:
    """(the models of a /v1/models body, what is wrong with it); nothing at all is wrong with no body."""
    try:
        return (engine_models.parse(body), "") if body else ([], "")
    except bounded_json.JsonError as error:
        return [], str(error)


def ask(host: Host) -> Status:
    """Asks one Mac; a Mac that does not answer is a status too."""
    settings = {**role_defaults(), **host.vars}
    paths = Paths(settings["ds4_root"])
    script = _SCRIPT.format(
        root=paths.root,
        port=settings["ds4_port"],
        most=bounded_json.MAX_BYTES + 1,
        mounts=paths.boot_state("mounts"),
        wired=paths.boot_state("wired"),
    )
    answer, why = shell.hear(host, script)
    if "@@now" not in answer:
        return Status(host.name, host.region, host.layer, reachable=False, trouble=why)
    return parse(host, answer)


def ask_all(hosts: Sequence[Host]) -> list[Status]:
    """Asks all Macs at once; the answers stand in the order of the hosts."""
    with ThreadPoolExecutor(max(1, min(len(hosts), _MORE_AT_ONCE_THAN_A_FLEET))) as pool:
        return list(pool.map(ask, hosts))


def exit_code(found: Sequence[Status]) -> int:
    """0 when every Mac answered and is well, EXIT_UNREACHABLE when one was silent, else EXIT_FAILED."""
    if any(not status.reachable for status in found):
        return EXIT_UNREACHABLE
    return EXIT_FAILED if any(status.trouble for status in found) else 0


def show(found: Sequence[Status]) -> Table:
    """The answers as a table."""
    columns = ("host", "region", "layer", "macOS", "up", "wired limit", "engine", "job", "serves", "context")
    shown = table("", *columns)
    for status in found:
        if not status.reachable:
            shown.add_row(status.host, status.region, status.layer, styled("no answer", "red"))
            continue
        serves = ", ".join(status.models) or (styled("no answer", "red") if status.trouble else "-")
        shown.add_row(
            status.host,
            status.region,
            status.layer,
            status.macos or "-",
            _span(status.up_s),
            f"{status.wired_limit_mib:,} MiB" if status.wired_limit_mib else "stock",
            status.release or "-",
            status.job or "-",
            serves,
            f"{status.context:,}" if status.context else "-",
        )
    return shown


def troubles(found: Sequence[Status]) -> list[str]:
    """One line for each Mac that is not well, to stand below the table."""
    return [f"{status.host}: {line(status.trouble)}" for status in found if status.trouble]


def notes(found: Sequence[Status]) -> list[str]:
    """One line for each thing worth knowing of a Mac, to stand below its troubles."""
    return [f"{status.host}: {line(note)}" for status in found for note in status.notes]


def _span(seconds: int) -> str:
    days, rest = divmod(max(seconds, 0), 86400)
    hours, minutes = divmod(rest // 60, 60)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
