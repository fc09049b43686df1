"""Claude Code itself, with the settings that `fab agents` writes, against a server of this machine.

What it sends and where it compacts is its own matter and changes from version to version: the one tried here
is named in docs/agents.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.agents import clients, write
from ds4fleet.agents.clients import Server
from tests.support import messages_api

pytestmark = pytest.mark.slow

VERSION = "2.1.332"
PACKAGE = f"@anthropic-ai/claude-code@{VERSION}"
INSTALL_TIMEOUT_S = 400
TALK_TIMEOUT_S = 120
CONTEXT = 65_536
ATTRIBUTION = "x-anthropic-billing-header"


@pytest.fixture(scope="module")
def claude() -> Path:
    """The program, from npm, kept in the user's cache."""
    for tool in ("npm", "node"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here, so Claude Code cannot be installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ds4-fleet"
    folder = cache / f"claude-code-{VERSION}"
    program = folder / "node_modules" / ".bin" / "claude"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            # Without retries a machine without network skips this soon.
            options = ["--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=0"]
            try:
                done = subprocess.run(
                    ["npm", "install", *options, "--prefix", str(folder), PACKAGE],
                    capture_output=True,
                    text=True,
                    timeout=INSTALL_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                pytest.skip(f"npm brought no {PACKAGE} within {INSTALL_TIMEOUT_S} s")
            if done.returncode != 0:
                said = " ".join(done.stderr.split())[:200]
                pytest.skip(f"npm brings no {PACKAGE}: {said}")
    return program


@dataclass
class Talk:
    """One conversation: the requests that were sent, and what the client said of it as JSON lines."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)

    def first_system(self) -> list[str]:
        """The texts of the first request's system prompt."""
        return [part["text"] for part in self.asked[0]["system"]]

    def windows(self) -> set[int]:
        """What it takes for the model's context."""
        results = [line for line in self.said if line.get("type") == "result"]
        assert results and not any(line["is_error"] for line in results), self.said[-1:]
        return {use["contextWindow"] for line in results for use in line["modelUsage"].values()}

    def compactions(self) -> int:
        return sum(line.get("subtype") == "compact_boundary" for line in self.said)


class Desk:
    """A home and a project of their own, where Claude Code talks to `api` and reaches nothing else."""

    def __init__(self, program: Path, folder: Path, api: messages_api.Server) -> None:
        self.program = program
        self.home, self.project = folder / "home", folder / "project"
        self.home.mkdir()
        self.project.mkdir()
        self.api = api
        server = Server("sg-01", api.url, "deepseek-v4-flash", "DeepSeek V4 Flash", CONTEXT, CONTEXT)
        (target,) = clients.claude_code(server, self.home).files
        write.apply(write.plan(target))
        self.settings = target.path

    def set(self, **values: str | None) -> None:
        """Change the settings that were written; None takes one out."""
        settings = json.loads(self.settings.read_text())
        changed = {**settings["env"], **values}
        settings["env"] = {name: value for name, value in changed.items() if value is not None}
        self.settings.write_text(json.dumps(settings))

    def talk(self, turns: Sequence[str]) -> Talk:
        """Say these one after the other, each when the one before was answered."""
        talk, before = Talk(), len(self.api.asked)
        command = [str(self.program), "--settings", str(self.settings), "-p", "--verbose"]
        command += ["--input-format", "stream-json", "--output-format", "stream-json"]
        # Whatever it wants beside the engine goes to a proxy that refuses and remembers.
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HTTP_PROXY": self.api.url,
            "HTTPS_PROXY": self.api.url,
            "NO_PROXY": "127.0.0.1",
            "DISABLE_AUTOUPDATER": "1",
        }
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command,
            cwd=self.project,
            env=environment,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdin and process.stdout
            # Should it hang, its output ends and what is missing is seen below.
            watch = threading.Timer(TALK_TIMEOUT_S, process.kill)
            watch.start()
            left = [
                json.dumps({"type": "user", "message": {"role": "user", "content": text}}) for text in turns
            ]
            print(left.pop(0), file=process.stdin, flush=True)
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                talk.said.append(json.loads(line))
                if talk.said[-1].get("type") == "result":
                    if not left:
                        break
                    print(left.pop(0), file=process.stdin, flush=True)
            process.stdin.close()
            process.stdout.read()
            watch.cancel()
        talk.asked = self.api.asked[before:]
        assert talk.asked and not left, talk.said[-1:]
        return talk


@pytest.fixture
def desk(claude: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with messages_api.serving() as api:
        yield Desk(claude, tmp_path, api)
        assert api.elsewhere == []


def test_it_knows_a_small_context_and_summarises_before_it_is_full(desk: Desk) -> None:
    desk.api.input_tokens = 60_000
    talk = desk.talk(["Good morning.", "How are you?"])
    assert talk.windows() == {CONTEXT}
    assert talk.compactions() == 1

    # What it did with the window alone, which it takes for 100,000 at least.
    desk.set(CLAUDE_CODE_MAX_CONTEXT_TOKENS=None, CLAUDE_CODE_AUTO_COMPACT_WINDOW=str(CONTEXT))
    talk = desk.talk(["Good morning.", "How are you?"])
    assert min(talk.windows()) > CONTEXT and talk.compactions() == 0


def test_conversations_begin_alike_so_that_the_engine_reads_their_prompt_once(desk: Desk) -> None:
    first, second = desk.talk(["Good morning."]), desk.talk(["Which files are here?"])
    assert first.asked[0]["tools"] == second.asked[0]["tools"]
    assert first.first_system() == second.first_system()
    assert not any(text.startswith(ATTRIBUTION) for text in first.first_system())

    desk.set(CLAUDE_CODE_ATTRIBUTION_HEADER=None)
    first, second = desk.talk(["Good morning."]), desk.talk(["Which files are here?"])
    assert first.first_system()[0].startswith(ATTRIBUTION)
    assert first.first_system()[0] != second.first_system()[0]
