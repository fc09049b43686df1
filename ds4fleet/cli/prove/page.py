"""The bundle of a proof as a page: what passed or failed, and what the lab assumes otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ds4fleet.markdown import code, inline


def page(whole: Mapping[str, Any]) -> str:
    """Markdown of a bundle that was redacted."""
    about, verdicts = whole["about"], whole["verdicts"]
    count = {state: sum(one["state"] == state for one in verdicts) for state in ("pass", "fail", "skipped")}
    macos = f"macOS {about['macos']} ({about['build']})"
    differ = f"{len(whole['differences'])} differences from what the lab assumes"
    passed = "Passed" if whole["passed"] else "Failed"
    steps = f"{count['pass']} steps passed, {count['fail']} failed, {count['skipped']} were skipped"
    lines = [
        f"# Proof on {inline(about['model'])}",
        "",
        inline(f"{about['chip']}, {about['memory_gb']} GB, {macos}, {about['at']}."),
        "",
        f"**{passed}**: {steps}. {differ}.",
        "",
        "| step | result | seconds | what was seen |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {inline(one['step'])} | {one['state']} | {one['seconds']:.1f} |"
        f" {inline('; '.join(one['said']))} |"
        for one in verdicts
    ]
    lines += ["", "## Differences", ""]
    if whole["differences"]:
        lines += ["| what | assumed | found | change |", "| --- | --- | --- | --- |"]
        lines += [
            "| " + " | ".join(inline(one[key]) for key in ("name", "assumed", "found", "change")) + " |"
            for one in whole["differences"]
        ]
    else:
        lines.append("None.")
    lines += ["", "## Commands", ""]
    lines += [
        f"- {inline(one['step'])}: {code(one['name'])}, status {one['status']}, {one['seconds']:.2f} s"
        for one in whole["commands"]
    ]
    return "\n".join(lines) + "\n"
