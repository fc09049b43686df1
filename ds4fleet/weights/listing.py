"""`fab weights list`: what is in the directories of weights, proven when, and used by whom."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

from ds4fleet import console
from ds4fleet.errors import EXIT_UNREACHABLE
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.remote import shell

GB = 10**9
_SCRIPT = """\
cd {root}/models 2>/dev/null && for f in *.gguf *.gguf.part* *.sha-mismatch; do
  [ -f "$f" ] || continue
  case $f in *.journal|*.chunks|*.new) continue;; esac
  printf '@@file %s %s\\n' "$(/usr/bin/stat -f '%z %i %m' "$f")" "$f"
  /bin/cat "$f.stamp" 2>/dev/null
done
for name in current previous; do
  printf '@@%s %s\\n' "$name" "$(/usr/bin/readlink "{root}/engine/$name/ds4flash.gguf")"
done
printf '@@served\\n'; /usr/bin/head -c 65536 {root}/var/server.running.conf 2>/dev/null
printf '\\n@@planned\\n'; /bin/cat {root}/etc/server.conf 2>/dev/null
printf '\\n@@now '; /bin/date +%s
"""


@dataclass(frozen=True)
class File:
    """One file in a Mac's directory of weights. kind: proven, unproven, part or wrong; used: `running`,
    `configured`, and the releases that link to it, or what it is staged for."""

    host: str
    name: str
    size_bytes: int
    kind: str
    proven_at: str = ""
    sha256: str = ""
    used: list[str] = field(default_factory=list)


def listing(*, host: str = "", region: str = "", limit: str = "", json_out: bool = False) -> int:
    """Shows the files of the selected Macs; EXIT_UNREACHABLE when one of them does not answer."""
    hosts = Fleet.select(host=host, region=region, limit=limit).hosts
    answers = shell.ask(hosts, [_SCRIPT.format(root=shell.root(one)) for one in hosts])
    files = [file for one, answer in zip(hosts, answers, strict=True) for file in files_of(one.name, answer)]
    silent = [one.name for one, answer in zip(hosts, answers, strict=True) if "@@now" not in answer]
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
        console.err.print(f"{name}: no answer", style="red")
    return EXIT_UNREACHABLE if silent else 0


def files_of(host: str, output: str) -> list[File]:
    """The files that a Mac's answer to the listing speaks of."""
    listed, _mark, rest = output.partition("@@served\n")
    served, _mark, planned = rest.partition("@@planned\n")
    links = dict(re.findall(r"^@@(current|previous) (.+)$", listed, re.M))
    found = []
    for size, inode, seconds, name, stamp in re.findall(
        r"^@@file (\d{1,18}) (\d{1,18}) (\d{1,18}) (.+)\n((?:\w+=.*\n)*)", listed, re.M
    ):
        facts = dict(line.split("=", 1) for line in stamp.splitlines())
        stamped = (facts.get("size_bytes"), facts.get("inode"), facts.get("mtime_ns", "")[:-9])
        kind = "proven" if stamped == (size, inode, seconds) else "unproven"
        kind = "part" if ".gguf.part" in name else "wrong" if name.endswith(".sha-mismatch") else kind
        used = [word for word, conf in (("running", served), ("configured", planned)) if _names(conf, name)]
        used += [f"{release} release" for release, target in links.items() if target.endswith(f"/{name}")]
        if not used and facts.get("staged_for"):
            used = [f"staged for {facts['staged_for']}"]
        proven_at, sha256 = facts.get("proven_at", ""), facts.get("sha256", "")
        found.append(File(host, name, int(size), kind, proven_at, sha256, used))
    return found


def _names(conf: str, name: str) -> bool:
    return any(line.endswith(f"/{name}") for line in conf.splitlines())
