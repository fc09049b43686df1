"""`fab stage` and `fab weights`: what is where, what is on its way, and one line per Mac while it comes."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.live import Live
from rich.table import Table

from ds4fleet import console
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.fleet import CHECKOUT, Fleet, Host, ansible_command
from ds4fleet.render import role_defaults
from ds4fleet.staging import FOLDER

CONNECT_TIMEOUT_S = 20
_AT_ONCE = 32
#: Between two looks at all Macs.
LOOK_S = 2
#: A status that old was written by a fetch that is no more.
SILENT_S = 10
OVER = ("done", "failed", "aborted", "-")
MB = 10**6
GB = 10**9

_STATUS = f"/bin/cat {FOLDER}/status.json 2>/dev/null; printf '\\n@@now '; /bin/date +%s"
_LIST = """\
cd {root}/models 2>/dev/null && for f in *.gguf *.gguf.part.* *.sha-mismatch; do
  [ -f "$f" ] || continue
  case $f in *.journal|*.chunks) continue;; esac
  printf '@@file %s %s\\n' "$(/usr/bin/stat -f %z "$f")" "$f"
  /bin/cat "$f.stamp" 2>/dev/null
done
printf '@@served\\n'; /bin/cat {root}/run/server.running.conf 2>/dev/null
printf '\\n@@planned\\n'; /bin/cat {root}/etc/server.conf 2>/dev/null
printf '\\n@@now '; /bin/date +%s
"""


@dataclass(frozen=True)
class Line:
    """One Mac's part in a staging run. `state` is `-` without an order, `no answer` when it is silent."""

    host: str
    state: str
    file: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: int = 0
    source: str = ""
    note: str = ""


@dataclass(frozen=True)
class File:
    """One file in a Mac's directory of weights. kind: proven, unproven, part or wrong."""

    host: str
    name: str
    size_bytes: int
    kind: str
    proven_at: str = ""
    sha256: str = ""
    used: list[str] = field(default_factory=list)


def stage(
    *,
    limit: str = "",
    model: str = "",
    status: bool = False,
    pause: bool = False,
    resume: bool = False,
    abort: bool = False,
    detach: bool = False,
    json_out: bool = False,
) -> int:
    """Brings a model to the Macs of `limit`, or looks at it (status), pauses, resumes or aborts it.

    The Macs work on whether or not anybody looks. Returns 0 when every Mac that took part is done.
    """
    wishes = [name for name, wanted in (("pause", pause), ("resume", resume), ("abort", abort)) if wanted]
    if len(wishes) + status > 1:
        raise OperatorError("choose one of --status, --pause, --resume and --abort", exit_code=EXIT_USAGE)
    hosts = Fleet.select(limit=limit).hosts
    if status:
        lines = look(hosts)
        if json_out:
            console.print_json([asdict(line) for line in lines])
        else:
            console.out.print(show(lines))
        return _exit_code(lines)
    if wishes:
        return _play(limit, {"ds4_stage_action": wishes[0]})
    asked = {"ds4_model": model} if model else {}
    code = _play(limit, {**asked, "ds4_stage_wait": False})
    if code or detach:
        return code
    lines = watch(hosts)
    if all(line.state in OVER for line in lines):
        closed = _play(limit, {"ds4_stage_action": "close"}, quiet=True)
        return _exit_code(lines) or closed
    return _exit_code(lines)


def watch(hosts: Sequence[Host]) -> list[Line]:
    """Shows a line per Mac until all have ended or wait for the operator; Ctrl-C only ends the looking."""
    lines = look(hosts)
    try:
        with Live(show(lines), console=console.out, refresh_per_second=2) as live:
            while any(line.state not in (*OVER, "paused") for line in lines):
                time.sleep(LOOK_S)
                lines = look(hosts)
                live.update(show(lines))
    except KeyboardInterrupt:
        console.out.print("The Macs go on: fab stage --status shows how far, --pause and --abort stop it.")
    return lines


def look(hosts: Sequence[Host]) -> list[Line]:
    """Asks all Macs at once."""
    with ThreadPoolExecutor(max(1, min(len(hosts), _AT_ONCE))) as pool:
        return list(pool.map(lambda host: line_of(host.name, _ask(host, _STATUS)), hosts))


def line_of(host: str, output: str) -> Line:
    """A Mac's line from its status file and clock; `output` is empty when it did not answer."""
    text, mark, now = output.rpartition("@@now ")
    if not mark:
        return Line(host, "no answer")
    try:
        said: Mapping[str, Any] = json.loads(text)
    except ValueError:
        return Line(host, "-")
    state = str(said["state"])
    if state not in OVER and int(now) - int(said["updated_at"]) > SILENT_S:
        state = "stopped"
    return Line(
        host,
        state,
        str(said["file"]),
        int(said["done_bytes"]),
        int(said["total_bytes"]),
        int(said["bytes_per_s"]),
        str(said["source"]),
        str(said["error"] or said["reason"]),
    )


def show(lines: Sequence[Line]) -> Table:
    """The lines as a table."""
    shown = console.table("", "host", "state", "done", "of", "rate", "left", "from", "note")
    for line in lines:
        left = line.total_bytes - line.done_bytes
        time_left = _span(left // line.bytes_per_s) if left and line.bytes_per_s else "-"
        shown.add_row(
            line.host,
            line.state,
            f"{100 * line.done_bytes / line.total_bytes:.1f} %" if line.total_bytes else "-",
            f"{line.total_bytes / GB:,.2f} GB" if line.total_bytes else "-",
            f"{line.bytes_per_s / MB:,.1f} MB/s" if line.bytes_per_s else "-",
            time_left,
            line.source or "-",
            console.escape(line.note),
        )
    return shown


def listing(limit: str = "", json_out: bool = False) -> int:
    """What is in the directories of weights, proven when, and used by whom."""
    hosts = Fleet.select(limit=limit).hosts
    with ThreadPoolExecutor(max(1, min(len(hosts), _AT_ONCE))) as pool:
        answers = list(pool.map(lambda host: _ask(host, _LIST.format(root=_root(host))), hosts))
    files = [
        file for host, answer in zip(hosts, answers, strict=True) for file in files_of(host.name, answer)
    ]
    silent = [host.name for host, answer in zip(hosts, answers, strict=True) if "@@now" not in answer]
    if json_out:
        console.print_json([asdict(file) for file in files])
    else:
        shown = console.table("", "host", "file", "size", "state", "proven", "used by")
        for file in files:
            size = f"{file.size_bytes / GB:,.2f} GB"
            used = ", ".join(file.used) or "-"
            shown.add_row(file.host, file.name, size, file.kind, file.proven_at or "-", used)
        console.out.print(shown)
        for name in silent:
            console.out.print(f"{name}: no answer", style="red")
    return EXIT_UNREACHABLE if silent else 0


def files_of(host: str, output: str) -> list[File]:
    """The files that a Mac's answer to the listing speaks of."""
    listed, _mark, rest = output.partition("@@served\n")
    served, _mark, planned = rest.partition("@@planned\n")
    found = []
    for size, name, stamp in re.findall(r"^@@file (\d+) (.+)\n((?:\w+=.*\n)*)", listed, re.M):
        facts = dict(line.split("=", 1) for line in stamp.splitlines())
        kind = "proven" if facts.get("size_bytes") == size else "unproven"
        kind = "part" if ".part." in name else "wrong" if name.endswith(".sha-mismatch") else kind
        used = [word for word, conf in (("running", served), ("configured", planned)) if f"/{name}" in conf]
        proven_at, sha256 = facts.get("proven_at", ""), facts.get("sha256", "")
        found.append(File(host, name, int(size), kind, proven_at, sha256, used))
    return found


def _root(host: Host) -> str:
    return str({**role_defaults(), **host.vars}["ds4_root"])


def _ask(host: Host, script: str) -> str:
    """What the Mac's /bin/sh says to a script that only reads; "" when it does not answer."""
    argv = ["ssh", *host.ssh_options(), "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
    argv += ["-p", str(host.port)]
    if host.private_key:
        argv += ["-i", str(host.private_key), "-o", "IdentitiesOnly=yes"]
    argv += [f"{host.user}@{host.address}" if host.user else host.address, "/bin/sh -s"]
    try:
        done = subprocess.run(
            argv, input=script, capture_output=True, text=True, timeout=3 * CONNECT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def _play(limit: str, values: Mapping[str, Any], quiet: bool = False) -> int:
    """Runs playbooks/stage.yml; its exit status."""
    command = [*ansible_command("ansible-playbook"), "playbooks/stage.yml", "-e", json.dumps(dict(values))]
    if limit:
        command += ["-l", limit]
    out = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, cwd=CHECKOUT, stdout=out, check=False).returncode


def _exit_code(lines: Sequence[Line]) -> int:
    if any(line.state == "no answer" for line in lines):
        return EXIT_UNREACHABLE
    return EXIT_FAILED if any(line.state in ("failed", "aborted", "stopped") for line in lines) else 0


def _span(seconds: int) -> str:
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
