"""Releases of the engine on a Mac: a bad one never takes the place of a good one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from maclab import engine

pytestmark = pytest.mark.lab
HOST = "tyo-02"
MAY = "8d576642c39b9a2d782a80159ba84ef5a81c0b81"


@pytest.fixture(scope="module")
def commits(converged: Any) -> dict[str, str]:
    """Commits of the lab's upstream by the name of their generation."""
    return engine.commits(converged.folder / "upstreams" / "repos" / "antirez" / "ds4.git")


def link(lab: Any, name: str) -> str:
    return lab.exec(HOST, "/usr/bin/readlink", f"/opt/ds4/engine/{name}", check=False).strip()


def served(lab: Any) -> str:
    return lab.exec(HOST, "/bin/ps", "-axww", "-o", "args=")


def test_a_build_that_fails_shows_its_end_and_leaves_what_serves(converged, commits):
    before = link(converged, "current"), served(converged).count("ds4-server")
    run = converged.ansible("site.yml", HOST, "-e", f"ds4_engine_commit={commits['no-build']}", check=False)
    assert run.returncode != 0 and run.changed == 0
    assert "make failed with status" in run.output and "undefined reference" in run.output
    assert (link(converged, "current"), served(converged).count("ds4-server")) == before
    assert ".partial" not in converged.exec(HOST, "/bin/ls", "/opt/ds4/engine/releases")
    assert converged.ansible("site.yml", HOST).changed == 0


def test_another_commit_is_built_beside_and_switched_by_link(converged, commits):
    july = f"releases/{commits['july'][:12]}"
    may = f"releases/{commits['may'][:12]}"
    assert link(converged, "current") == july
    converged.ansible("site.yml", HOST, "-e", f"ds4_engine_commit={MAY}")
    assert (link(converged, "current"), link(converged, "previous")) == (may, july)
    assert f"/opt/ds4/engine/{may}/ds4-server" in served(converged)
    assert converged.ansible("site.yml", HOST, "-e", f"ds4_engine_commit={MAY}").changed == 0
    converged.ansible("site.yml", HOST)
    assert (link(converged, "current"), link(converged, "previous")) == (july, may)
    assert f"/opt/ds4/engine/{july}/ds4-server" in served(converged)


def test_capabilities_are_those_of_the_built_commit(converged, commits):
    text = converged.exec(
        HOST, "/bin/cat", f"/opt/ds4/engine/releases/{commits['july'][:12]}/.ds4-fleet.json"
    )
    marker = json.loads(text)
    assert marker["commit"] == commits["july"]
    assert "--ssd-streaming" in marker["capabilities"]["flags"]
    assert "q2-imatrix" in marker["capabilities"]["targets"]


def test_the_account_that_builds_and_serves_cannot_change_a_release(converged):
    touch = ["/usr/bin/sudo", "-u", "_ds4", "/usr/bin/touch", "/opt/ds4/engine/current/ds4-server"]
    assert converged.lab.exec(HOST, touch).returncode != 0
