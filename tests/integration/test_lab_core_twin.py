"""A change rehearsed on a twin does what a check of the original announces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.cli import twin

pytestmark = [pytest.mark.lab, pytest.mark.slow]

HOST = "tyo-02"
#: What somebody did by hand on the original.
DAMAGE = (
    "echo x >> /etc/newsyslog.d/ds4.conf; chmod 700 /opt/ds4/etc/server.conf; rm /opt/ds4/libexec/ds4-rotate"
)


def counts(run: Any) -> dict[str, int]:
    return {key: run.recap[HOST][key] for key in ("ok", "changed", "failed", "unreachable")}


def test_the_twins_recap_is_what_the_check_of_the_original_said(
    make_lab: Callable[..., Any], tmp_path: Path
) -> None:
    change = ("-e", "ds4_context=65536")
    original = make_lab(HOST)
    original.ansible("playbooks/bootstrap.yml", HOST)
    original.ansible("site.yml", HOST)
    original.exec(HOST, "/bin/sh", "-c", DAMAGE)
    original.ansible("playbooks/observe.yml", HOST, "-e", f"ds4_facts_folder={tmp_path}")
    copy = make_lab(HOST, facts=twin.read(tmp_path, [HOST]))
    announced = original.ansible("site.yml", HOST, "--check", *change)
    done = copy.ansible("site.yml", HOST, *change)
    assert counts(done) == counts(announced)
    assert done.changed > 0
    assert copy.ansible("site.yml", HOST, *change).changed == 0
