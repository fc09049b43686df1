"""What a probe of a real Mac found, held against what the lab assumes; pure.

Answers carry the names of `maclab.machine.model.Quirks`: the lab loads them from the facts. Findings are what
the lab has in its code; EXPECTED says what, and which file to change when a real Mac says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ds4agent.model import Observation
from ds4fleet.markdown import block, code, inline
from maclab.machine import stock

DISKUTIL = "maclab/commands/diskutil.py"
PARSERS = "plugins/module_utils/ds4agent/mac/parse.py"
QUIRKS = "the facts carry it; the default is in maclab/machine/model.py (Quirks)"

#: finding: (what the lab does, where). Sources: reference 1.3, 1.4, 1.5, 2.3, 4 and 5.1, marks B and C.
EXPECTED: dict[str, tuple[Any, str]] = {
    "quota_errno": ("EDQUOT", "maclab/machine/storage.py"),
    "nomount_lines": (
        [
            'Will export new APFS Volume "ds4-probe" from APFS Container Reference diskN',
            "Started APFS operation on diskN",
            "Preparing to add APFS Volume to APFS Container diskN",
            "Creating APFS Volume",
            "Created new APFS Volume diskN",
            "Disk from APFS operation: diskN",
            "Finished APFS operation on diskN",
        ],
        DISKUTIL,
    ),
    "mount_elsewhere_moves": (False, DISKUTIL),
    "operator_adds_volume_rc": (0, DISKUTIL),
    "operator_owns_new_root": (True, DISKUTIL),
    "bootstrap_rc": (0, "maclab/commands/launchctl.py"),
    "user_creation_rc": (0, "maclab/commands/dscl.py"),
    "daemon_metal_device": (True, "the fault metal-nil shows the other case"),
}


@dataclass(frozen=True)
class Difference:
    """One thing that on the Mac is not as assumed: what, both values, and what to change."""

    name: str
    assumed: str
    found: str
    change: str

    @property
    def sentence(self) -> str:
        return f"{self.name}: assumed {self.assumed}, found {self.found}"


def differences(
    host: str, hardware: Mapping[str, Any], seen: Observation, told: Mapping[str, Any]
) -> list[Difference]:
    """Where the Mac differs from the lab. told: the result of the module ds4_probe."""
    found = [
        Difference(name.strip(), *_halves(values), QUIRKS)
        for name, _kind, values in (
            line.partition(":") for line in stock.bare(host, "", hardware).assume(dict(told["answers"]))
        )
    ]
    for name, (assumed, change) in EXPECTED.items():
        if name in told["findings"] and told["findings"][name] != assumed:
            found.append(Difference(name, _text(assumed), _text(told["findings"][name]), change))
    python = str(told["findings"].get("python", "3.9"))
    if not python.startswith("3.9"):
        found.append(Difference("python", "3.9", python, "the lint step for 3.9 and maclab/preflight.py"))
    for parser in told["parsers"]:
        if parser["problem"]:
            name = f"parser {', '.join(parser['parsers'])}"
            found.append(
                Difference(name, f"`{parser['command']}` can be read", str(parser["problem"]), PARSERS)
            )
    for error in seen.errors:
        found.append(
            Difference(
                f"observation {error.probe}",
                "can be made",
                error.message,
                "plugins/module_utils/ds4agent/observe/observation.py",
            )
        )
    return found


def _halves(values: str) -> tuple[str, str]:
    assumed, _word, found = values.strip().removeprefix("assumed ").partition(", found ")
    return assumed, found


def facts(observation: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The observation with the answers; `fab lab up --from` boots a twin that behaves accordingly."""
    return {**observation, "answers": dict(told["answers"])}


def report(
    host: str,
    seen: Observation,
    told: Mapping[str, Any],
    found: list[Difference],
    *,
    write: bool,
) -> str:
    """The probe's result as a page of Markdown."""
    macos, machine = seen.macos, seen.hardware
    lines = [
        f"# Probe of {host}",
        "",
        inline(
            f"{machine.model}, {machine.chip}, macOS {macos.version} ({macos.build}), {seen.observed_at}. "
        )
        + (
            "With write probes on a volume, a daemon and a user."
            if write
            else "Read-only; `-e ds4_probe_write=true` asks the rest."
        ),
        "",
        f"## {len(found)} differences from what the lab assumes",
        "",
    ]
    if found:
        lines += ["| what | assumed | found | change |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {inline(one.name)} | {inline(one.assumed)} | {inline(one.found)} | {one.change} |"
            for one in found
        ]
    else:
        lines.append("None.")
    lines += ["", "## Answers", ""]
    lines += [_item(name, value) for name, value in sorted(told["answers"].items())] or ["None."]
    lines += ["", "## Also seen", ""]
    lines += [_item(name, value) for name, value in sorted(told["findings"].items())]
    lines += ["", "## Not answered", ""]
    lines += [_item(name, why) for name, why in sorted(told["unanswered"].items())] or ["Nothing."]
    lines += ["", f"## Parsers: {len(told['parsers'])} commands", ""]
    for parser in told["parsers"]:
        verdict = parser["problem"] or "fits"
        lines.append(f"- {code(parser['command'])} (status {inline(parser['rc'])}): {inline(verdict)}")
        for stream in ("out", "err"):
            if parser[stream]:
                lines += ["", f"  {stream}, for a recording:", "", *block(parser[stream], "  "), ""]
    if told["left"]:
        lines += ["", "## Left behind", "", *(f"- {inline(what)}" for what in told["left"])]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _item(name: str, value: Any) -> str:
    return f"- {inline(name)}: {inline(_text(value))}"
