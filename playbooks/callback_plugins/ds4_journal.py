# Copyright (c) 2026 the ds4-fleet authors
# MIT License (see LICENSE)
"""Keeps a line of each run that changed a Mac or failed on one: who, when, what, and how it went."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ds4_journal
type: notification
short_description: Keep a journal of the runs that change something
description:
  - Adds one line of JSON to C(journal.jsonl) in the state directory of ds4-fleet for each run that changed a
    Mac or failed on one; C(fab journal) shows them. A run in check mode changes nothing and is left out.
  - Values of C(-e) are not kept.
  - Stands beside the playbooks, where Ansible looks whatever its configuration, and needs not be enabled.
"""

import atexit  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from dataclasses import replace  # noqa: E402
from typing import Any  # noqa: E402

from ansible.plugins.callback import CallbackBase  # noqa: E402

from ds4fleet import journal  # noqa: E402

#: What is done in a Mac's name on the controller changes no Mac.
HERE = ("localhost", "127.0.0.1")
#: Of the sentence that stopped a Mac.
SENTENCE_LIMIT = 300


class CallbackModule(CallbackBase):
    """The callback. Ansible gives it the results of a run, host by host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "ds4_journal"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._results: dict[str, journal.Result] = {}
        self._check = False
        self._at, self._started, self._pid = journal.now(), time.monotonic(), os.getpid()
        atexit.register(self._interrupted)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Remembers whether anything can change."""
        self._check = self._check or bool(play.check_mode)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Counts what changed, and takes the plan's hash."""
        name, told = result.host.get_name(), result.result
        one = self._results.get(name, journal.Result())
        facts = told.get("ansible_facts") or {}
        if isinstance(facts, Mapping) and isinstance(facts.get("ds4_plan"), Mapping):
            text = json.dumps(facts["ds4_plan"], sort_keys=True, default=str)
            one = replace(one, plan=hashlib.sha256(text.encode()).hexdigest()[:12])
        if told.get("changed") and result.task.delegate_to not in HERE:
            one = replace(one, changed=one.changed + 1)
        self._results[name] = one

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remembers the sentence that stopped a Mac."""
        if not ignore_errors:
            self._stopped(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Remembers a Mac that did not answer."""
        self._stopped(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Adds the line."""
        failed = any(one.failed for one in self._results.values())
        self._add("failed" if failed else "done")

    def _stopped(self, result: Any) -> None:
        name = result.host.get_name()
        sentence = (str(result.result.get("msg") or "").strip().splitlines() or [""])[0][:SENTENCE_LIMIT]
        one = self._results.get(name, journal.Result())
        self._results[name] = replace(one, failed=sentence or "failed")

    def _interrupted(self) -> None:
        # A worker of Ansible is a fork of this process, and does not come to its end.
        if os.getpid() == self._pid:
            self._add("interrupted")

    def _add(self, ended: str) -> None:
        told = {name: one for name, one in self._results.items() if one.changed or one.failed}
        self._results = {}
        if self._check or not told:
            return
        entry = journal.Entry(
            self._at,
            journal.who(),
            journal.source(),
            journal.command(),
            round(time.monotonic() - self._started, 1),
            ended,
            told,
        )
        try:
            journal.add(entry)
        except OSError as error:
            self._display.warning(f"The journal does not have this run: {error}")
