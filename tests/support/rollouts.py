"""An operator's shell at a lab for tests of rollouts, clients meanwhile, and what a Mac is afterwards."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ds4agent.upgrade_state import ENDED
from ds4fleet.layout import CHECKOUT
from ds4fleet.upgrade import journal
from maclab import engine

NEWER, OLDER = "flash-q2-0731", "flash-q2"
KV = "/opt/ds4/kv"
MAC_PYTHON = "/Library/Developer/CommandLineTools/usr/bin/python3"
#: The name of an entry that the engine neither reads nor counts, as its head is not an entry's.
MARK = "f" * 40 + ".kv"


class Controller:
    """An operator's shell at a lab, with its own settings and its own record of rollouts."""

    def __init__(
        self, lab: Any, macs: Sequence[str], settings: Mapping[str, Any], unknown: Sequence[str] = ()
    ) -> None:
        """unknown: engines of the lab of which nobody here has found out yet that they are bad."""
        self.lab, self.macs = lab, tuple(macs)
        self.limit = ",".join(macs)
        self.rollouts = lab.folder / "rollouts"
        self.settings = lab.folder / "settings.yml"
        self.commits = engine.commits(lab.folder / "upstreams" / "repos" / "antirez" / "ds4.git")
        given = [str(path) for path in lab.fleet.host(macs[0]).vars["ds4_catalogue"]]
        if unknown:
            catalogue = lab.folder / "more.yml"
            engines = {self.commits[name]: {"generation": "2026-07", "known_bad": False} for name in unknown}
            catalogue.write_text(yaml.safe_dump({"engines": engines}))
            given.append(str(catalogue))
        hosts = {name: {"ds4_catalogue": given} for name in macs}
        self.settings.write_text(yaml.safe_dump({"all": {"vars": dict(settings), "hosts": hosts}}))

    @property
    def inventories(self) -> list[Path]:
        return [*self.lab.inventories, self.settings]

    def environment(self) -> dict[str, str]:
        return {
            **self.lab.environment(),
            "ANSIBLE_INVENTORY": ",".join(str(path) for path in self.inventories),
            "DS4_ROLLOUTS": str(self.rollouts),
        }

    def start(self, *words: str, program: str = "fab") -> subprocess.Popen[str]:
        """`fab` in a process group of its own, so that it can be killed with all that it started."""
        return subprocess.Popen(
            [str(Path(sys.executable).parent / program), *words],
            cwd=CHECKOUT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def fab(self, *words: str, ends: int | None = 0, timeout_s: float = 600) -> str:
        process = self.start(*words)
        output, _ = process.communicate(timeout=timeout_s)
        assert ends is None or process.returncode == ends, output[-6000:]
        return output

    def upgrade(self, *words: str, ends: int | None = 0, timeout_s: float = 600) -> str:
        return self.fab("upgrade", "--limit", self.limit, "--yes", *words, ends=ends, timeout_s=timeout_s)

    def settle(self) -> None:
        """Ends a rollout that another test left before its end, if there is one."""
        if self.runs and self.last.progress().phase not in ENDED:
            self.fab("upgrade", "--abort")

    def all_on(self, model: str) -> None:
        """Has all Macs serve `model`, of the two that tests go between, with no rollout under way."""
        self.settle()
        if any(self.other(name) == model for name in self.macs):
            self.upgrade("--model", model)

    @property
    def runs(self) -> int:
        """How many rollouts there were."""
        return len(journal.history(self.rollouts))

    @property
    def last(self) -> journal.Journal:
        return journal.history(self.rollouts)[0]

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.last.folder / "report.json").read_text())
        return found

    # What a Mac says, past ssh.

    def journal(self, host: str) -> dict[str, Any]:
        """Of its last switch; read from outside, which costs the Mac nothing."""
        path = self.lab.lab.root(host) / "opt/ds4/var/switch/journal.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return found

    def phase(self, host: str) -> str:
        """Its phase in the newest rollout, "" before that."""
        journal = self.journal(host)
        return str(journal["phase"]) if journal.get("run_id") == self.last.folder.name else ""

    def served(self, host: str) -> str:
        """The weights that the server of a Mac has open and the engine's release, as one word."""
        argv = self.lab.exec(host, "/bin/ps", "-axww", "-o", "args=")
        lines = [line for line in argv.splitlines() if "/ds4-server --model" in line]
        assert len(lines) == 1, argv
        words = lines[0].split()
        return f"{Path(words[0]).parent.name} {Path(words[words.index('--model') + 1]).name}"

    def other(self, host: str) -> str:
        """The model that a Mac does not serve, of the two that tests go between."""
        return OLDER if "0731" in self.served(host) else NEWER

    def answers(self, host: str, *more: str) -> str:
        patient = ("--retry", "60", "--retry-delay", "1", "--retry-connrefused")
        url = "http://127.0.0.1:8000"
        found: str = self.lab.exec(host, "/usr/bin/curl", "-s", *patient, *(more or (f"{url}/v1/models",)))
        return found

    def whole(self, host: str) -> None:
        """A Mac after everything: serving, not drained, no switch under way, nothing left over."""
        assert json.loads(self.answers(host))["data"]
        journal = self.journal(host)
        assert journal["phase"] in ("confirmed", "reverted", "cancelled"), journal["reason"]
        assert journal.get("settled", True), journal
        assert "drain.json" not in self.lab.exec(host, "/bin/ls", "/opt/ds4/run", "/opt/ds4/var/switch")
        places = (KV, "/opt/ds4/engine", "/opt/ds4/etc", "/opt/ds4/libexec", "/Library/LaunchDaemons")
        left = self.lab.exec(host, "/usr/bin/find", *places, "-maxdepth", "2")
        wrong = (".before-switch", ".spoilt", ".kv.tmp.", ".ds4-new")
        assert not [path for path in left.splitlines() if any(word in path for word in wrong)], left

    # KV entries.

    def recalled(self, host: str) -> int:
        """Has a Mac answer one long prompt, always the same: how many of its tokens it knew from before."""
        script = (
            "import json, urllib.request as ask\n"
            "body = {'messages': [{'role': 'user', 'content': 'Once more. ' * 4000}], 'max_tokens': 4}\n"
            "url = 'http://127.0.0.1:8000/v1/chat/completions'\n"
            "print(ask.urlopen(ask.Request(url, json.dumps(body).encode(),"
            " {'Content-Type': 'application/json'})).read().decode())"
        )
        usage = json.loads(self.lab.exec(host, MAC_PYTHON, "-c", script))["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    def kv_dir(self, host: str) -> str:
        """The KV directory of what a Mac serves now."""
        argv = self.lab.exec(host, "/bin/ps", "-axww", "-o", "args=")
        words = next(line for line in argv.splitlines() if "/ds4-server --model" in line).split()
        return words[words.index("--kv-disk-dir") + 1]

    def mark_kv(self, host: str) -> str:
        """Leaves an entry that names its directory, and one that an engine was killed at."""
        folder = self.kv_dir(host)
        script = f"printf %s {folder} >{folder}/{MARK}; printf half >{folder}/{'e' * 40}.kv.tmp.77"
        self.lab.exec(host, "/bin/sh", "-c", script)
        return folder

    def kv_marks(self, host: str) -> dict[str, str]:
        """{KV directory: the directory that the entry in it names}."""
        found = self.lab.exec(host, "/usr/bin/find", KV, "-name", MARK)
        return {str(Path(path).parent): self.lab.exec(host, "/bin/cat", path) for path in found.split()}


def kill(process: subprocess.Popen[str]) -> None:
    """As a power cut at the controller: Ansible's workers have sessions of their own and would live on."""
    doomed = [process.pid]
    for pid in doomed:
        with contextlib.suppress(OSError):
            # What stands still starts nothing that would be missed.
            os.kill(pid, signal.SIGSTOP)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                doomed += [int(child) for child in children.read_text().split()]
    for pid in doomed:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


class Clients:
    """Streamed requests without a pause, and how each of them ended."""

    def __init__(self, *ports: int, each: int = 3) -> None:
        self.ends: list[str] = []
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self._load, args=(port,)) for port in ports * each]

    def __enter__(self) -> Clients:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()

    @property
    def failed(self) -> Counter[str]:
        """How those ended that were not answered whole."""
        return Counter(end for end in self.ends if end != "whole")

    def _load(self, port: int) -> None:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64, "stream": True}
        while not self.done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body))
                response = connection.getresponse()
                text = response.read().decode()
                whole = response.status == 200 and text.rstrip().endswith("data: [DONE]")
                self.ends.append("whole" if whole else f"{port}: {response.status} {text[-200:]}")
            except (OSError, http.client.HTTPException) as error:
                self.ends.append(f"{port}: {error!r}")
            finally:
                connection.close()
