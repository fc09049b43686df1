"""Completion of `fab`: real shells ask a file, which follows the inventory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ds4fleet.cli import completion
from ds4fleet.layout import CHECKOUT
from ds4fleet.state import STATE_VARIABLE

FAB = Path(sys.executable).parent / "fab"
HOSTS = "all:\n  children:\n    regions:\n      children:\n        north:\n          hosts: {%s: {}}\n"
#: How each shell is asked, with the script as $1 and the words as the rest.
ASK = {
    "bash": (
        'source "$1"; shift; COMP_WORDS=(fab "$@"); COMP_CWORD=$#; _ds4_fab; printf "%s\\n" "${COMPREPLY[@]}"'
    ),
    "zsh": 'compdef() :; source "$1"; shift; _ds4_fab_words "${(pj:\\037:)@}" | cut -f 1',
    "fish": 'source $argv[1]; complete -C"fab "(string join " " -- $argv[2..]) | cut -f 1',
}
LINES = [
    (["upg"], {"upgrade"}),
    (["tunnel", "--host", "no"], {"north-01"}),
    (["tunnel", "--region", ""], {"north"}),
    (["lab", "fa"], {"fault", "faults"}),
    (["lab", "fault", "north-01", "disk-f"], {"disk-full"}),
    (["plan", "--wh"], {"--what-if"}),
    (["upgrade", "--model", "flash-q2-07"], {"flash-q2-0731"}),
    (["upgrade", "--regions", "north,n"], {"north,north"}),
    (["agents", "--client", "cod"], {"codex"}),
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an inventory of its own, and the verbs of fab."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "hosts.yml").write_text(HOSTS % "north-01")
    for name in ("fabfile.py", "tasks.py"):
        shutil.copy(CHECKOUT / name, folder)
    return folder


def in_shell(shell: str, fleet: Path, *words: str) -> set[str]:
    """What `shell` offers for these words, the last of which is being typed."""
    environment = {
        **os.environ,
        STATE_VARIABLE: str(fleet / "state"),
        "PATH": f"{FAB.parent}:{os.environ['PATH']}",
        "HOME": str(fleet),
        "ANSIBLE_INVENTORY": str(fleet / "hosts.yml"),
    }
    script = fleet / f"fab.{shell}"
    script.write_text(completion.script(shell))
    start = {"bash": [shell, "-c"], "zsh": [shell, "-f", "-c"], "fish": [shell, "-N", "-c"]}[shell]
    name = [] if shell == "fish" else [shell]
    run = subprocess.run(
        [*start, ASK[shell], *name, str(script), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=fleet,
        env=environment,
        timeout=120,
    )
    assert run.stderr == "", run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("shell", ASK)
def test_a_shell_offers_what_can_stand_there(fleet: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    assert [in_shell(shell, fleet, *words) for words, _offered in LINES] == [one for _words, one in LINES]


def test_the_file_of_a_directory_has_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    assert completion.path(Path("/a/b")) == tmp_path / "completion" / "%a%b"


def test_a_change_of_the_inventory_is_seen(fleet: Path) -> None:
    hosts, earlier = fleet / "hosts.yml", time.time() - 60
    assert in_shell("bash", fleet, "tunnel", "--host", "no") == {"north-01"}
    (cache,) = (fleet / "state" / "completion").iterdir()
    for place in (fleet, cache):
        os.utime(place, (earlier, earlier))
    try:
        hosts.write_text(HOSTS % "north-02")
        assert in_shell("bash", fleet, "tunnel", "--host", "no") == {"north-01"}, "it was waited for"
        deadline = time.monotonic() + 120
        while in_shell("bash", fleet, "tunnel", "--host", "no") != {"north-02"}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        hosts.write_text(HOSTS % "north-01")
        cache.unlink()
