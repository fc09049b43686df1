# Copyright (c) 2026 the ds4-fleet authors
# MIT License (see LICENSE)
"""Says whether a run goes to simulated or to real Macs, and what it came to, host by host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ds4_banner
type: notification
short_description: Tell the lab from real Macs, and sum a run up in one table
description:
  - At the start of a playbook prints which of its hosts are simulated and which are real.
  - At its end prints one line per planned host, with role, model, context, and what changed or was refused.
  - Leaves the default output of Ansible as it is, except that nothing which a Mac, an engine or a file name
    puts into it does anything at the terminal; control characters and marks that turn text around are shown
    escaped, as C(\x1b).
requirements:
  - enable in configuration (C(callbacks_enabled))
options:
  record:
    description:
      - A file that gets what the run came to, as JSON; for each host its plan, the names of the tasks that
        changed something, the sentence that stopped it, and its seconds.
    type: path
    env:
      - name: DS4_RUN_RECORD
"""

import gc
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

from ds4agent.border import plain
from ds4fleet import ansible_output
from ds4fleet.inventory import settings
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.watch import watch

#: Of a Mac that serves, and with a time zone: its plan needs most of what any plan does.
EXAMPLE = {"ds4_hardware": {"memory_gb": 128, "storage_gb": 2000}, "ds4_timezone": "UTC"}
#: What the closing table needs of a plan.
SHOWN = ("role", "model", "context")
HEAD = ("host", "role", "model", "context", "result")


class Outcome:
    """What one host's run came to."""

    def __init__(self) -> None:
        self.plan: Mapping[str, Any] = {}
        self.changed: list[str] = []
        self.stopped = ""
        self.started = time.monotonic()
        self.ended = self.started

    def record(self) -> dict[str, Any]:
        """The outcome as JSON-able data; seconds from the host's first task to its last result."""
        return {
            "plan": json.loads(json.dumps(self.plan, default=str)),
            "changed": self.changed,
            "stopped": self.stopped,
            "seconds": round(self.ended - self.started, 1),
        }

    def row(
        self, host: str, check: bool, left_out: Callable[[str], bool] = lambda _: False
    ) -> tuple[str, ...]:
        """The host's line of the closing table. left_out: whether the run's tags leave out a stage."""
        model = self.plan.get("model") or {}
        context = self.plan.get("context")
        return (
            host,
            str(self.plan.get("role") or "-"),
            str(model.get("id") or "-"),
            f"{context:,}" if isinstance(context, int) and context else "-",
            self.stopped or self._changes(check, left_out),
        )

    def _changes(self, check: bool, left_out: Callable[[str], bool]) -> str:
        stages = [str(stage) for stage in self.plan.get("stages") or ()]
        left = [stage for stage in stages if left_out(stage)]
        ran = [stage for stage in stages if stage not in left]
        rest = f"; left out by tags: {', '.join(left)}" if left else ""
        if not self.changed:
            if not stages:
                return "as planned, nothing to change"
            steps = f"; the plan has steps for {', '.join(ran)}" if ran else ""
            return f"nothing was changed{steps}{rest}"
        where = f" ({', '.join(ran)})" if ran else ""
        count = len(self.changed)
        return (
            f"{count} {'change' if count == 1 else 'changes'}{' would follow' if check else ''}{where}{rest}"
        )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as left-aligned lines; the last column keeps its length."""
    rows = [[plain.line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        lines.append("  ".join([*cells, row[-1]]))
    return lines


def sentence(host: str, message: Any) -> str:
    """': ' and the first line of a message, without Ansible's introductions and the host's own name."""
    lines = str(message or "").strip().splitlines()
    text = lines[0] if lines else ""
    for introduction in ("Task failed: ", "Module failed: ", f"{host}: "):
        text = text.removeprefix(introduction)
    return f": {text}" if text else ""


def layers(hosts: Mapping[str, str]) -> list[str]:
    """The banner's lines for hosts and their layers ('lab' or 'real')."""
    lab = [name for name, layer in hosts.items() if layer == "lab"]
    real = [name for name, layer in hosts.items() if layer != "lab"]
    lines = []
    if lab:
        lines.append(f"LAB   {_few(lab)}: simulated on this machine")
    if real:
        lines.append(f"REAL  {_few(real)}: at the addresses of the inventory")
    return lines


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{len(names)} {'Mac' if len(names) == 1 else 'Macs'} ({shown})"


class CallbackModule(CallbackBase):
    """The callback. Ansible gives it events; it prints through Ansible's own display."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "ds4_banner"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ansible_output.guard(self._display)
        self._shown: dict[str, str] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._check = False
        self._tags: frozenset[str] = frozenset(("all",))
        self._skipped_tags: frozenset[str] = frozenset()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Makes a plan of no Mac: every task of every Mac is a fork of this process, and would read the
        catalogue, the role's defaults, its specs and its templates again."""
        settings.mistakes("", EXAMPLE, lambda _options, _values: ())
        watch(EXAMPLE)
        make_plan("", EXAMPLE)
        # A fork that collects garbage would copy every page of this process on its way through it.
        os.register_at_fork(after_in_child=gc.freeze)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Print the banner, once while the hosts stay the same."""
        self._check = bool(play.check_mode)
        self._tags, self._skipped_tags = frozenset(play.only_tags), frozenset(play.skip_tags)
        # Ansible offers no public way from a play to its hosts; the variable manager knows the inventory.
        inventory = play.get_variable_manager()._inventory
        hosts = {
            host.get_name(): str(host.get_vars().get("ds4_fleet_layer", "real"))
            for host in inventory.get_hosts(play.hosts)
            if host.get_vars().get("ansible_connection") != "local"
        }
        if hosts and hosts != self._shown:
            self._shown = hosts
            for line in layers(hosts):
                self._display.display(line, color="cyan" if line.startswith("LAB") else "bright yellow")

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Starts the host's clock at its first task."""
        self._outcomes.setdefault(host.get_name(), Outcome())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Remembers the plan and what changed."""
        outcome = self._outcome(result)
        facts = result.result.get("ansible_facts") or {}
        if isinstance(facts, Mapping) and isinstance(facts.get("ds4_plan"), Mapping):
            # A plan is made again when the engine's flags are known; the stages of the first one still ran.
            stages = outcome.plan.get("stages") or facts["ds4_plan"].get("stages")
            # Of hundreds of Macs the plans are more than all else here; the table needs little of them.
            keep = facts["ds4_plan"] if self.get_option("record") else SHOWN
            outcome.plan = {**{key: facts["ds4_plan"].get(key) for key in keep}, "stages": stages}
        if result.result.get("changed"):
            outcome.changed.append(result.task.get_name())

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remembers the sentence that stopped a host."""
        if not ignore_errors:
            self._outcome(result).stopped = self._sentence("stopped", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Remembers a host that did not answer; the others go on."""
        self._outcome(result).stopped = self._sentence("unreachable", result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Prints the closing table, where anything was planned or stopped."""
        record = self.get_option("record")
        if record:
            outcomes = {host: outcome.record() for host, outcome in self._outcomes.items()}
            Path(record).write_text(json.dumps(outcomes, indent=2) + "\n")
        told = {host: one for host, one in self._outcomes.items() if one.plan or one.stopped}
        if not told:
            return
        rows = [HEAD, *(told[host].row(host, self._check, self._left_out) for host in sorted(told))]
        for number, line in enumerate(columns(rows)):
            stopped = number > 0 and told[sorted(told)[number - 1]].stopped
            self._display.display(line, color="red" if stopped else None)

    def _left_out(self, stage: str) -> bool:
        return not self._tags & {"all", "tagged", stage} or bool(
            self._skipped_tags & {"all", "tagged", stage}
        )

    def _outcome(self, result: Any) -> Outcome:
        outcome = self._outcomes.setdefault(result.host.get_name(), Outcome())
        outcome.ended = time.monotonic()
        return outcome

    @staticmethod
    def _sentence(word: str, result: Any) -> str:
        return word + sentence(result.host.get_name(), result.result.get("msg"))
