"""`make demo`: from bare simulated Macs to an answered prompt, by the commands that an operator types.

Every step is the real command in a subprocess, printed before it runs; nothing here knows more than they do.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4agent.border import bounded_http, bounded_json
from ds4agent.engine import models as engine_models
from ds4agent.model import ModelError
from ds4fleet import locales
from ds4fleet.cli import container
from ds4fleet.console import operator_errors, out, styled, table
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.fleet import Fleet, Host, ansible_environment
from ds4fleet.layout import CHECKOUT
from ds4fleet.plan.types import HostPlan

LAB_LIMIT = "tokyo,singapore"
REGION = "tokyo"
PROMPT = "In two sentences: why does a Mac with unified memory run large models well?"
#: A login, a port forward and the engine's first answer; more means that something is wrong.
TUNNEL_TIMEOUT_S = 60.0
#: What `fab tunnel` says once the engine answers through it.
TUNNEL_UP = ": up at "
#: The engine may prefill for long before its first event; a stuck stream still has to end.
STREAM_TIMEOUT_S = 300.0
STREAM_BYTES = 4 * 1024 * 1024
MODELS_TIMEOUT_S = 5.0


@dataclass
class Step:
    """One step of the demo and what it took."""

    title: str
    seconds: float


class Demo:
    """Runs the steps in order and remembers their durations."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.began = time.monotonic()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A context that says what comes and remembers how long it took."""
        out.print(f"\n{len(self.steps) + 1}. {title}", style="bold cyan")
        start = time.monotonic()
        yield
        self.steps.append(Step(title, time.monotonic() - start))


def environment() -> dict[str, str]:
    """The operator's environment with this Python's programs first, as `. .venv/bin/activate` makes it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**ansible_environment(), "PATH": path, "PYTHONUNBUFFERED": "1"}


def run(command: str, extra: Mapping[str, str] | None = None) -> None:
    """Runs a command as typed, output shown as it comes. Raises OperatorError when it fails."""
    out.print(f"$ {command}", style="bold")
    done = subprocess.run(command.split(), cwd=CHECKOUT, env={**environment(), **(extra or {})}, check=False)
    if done.returncode != 0:
        raise OperatorError(
            f"'{command}' ended with {done.returncode} (its output stands above); the lab is left as it is: "
            "look around with 'fab lab status', run 'make demo' again, or start afresh after 'fab lab down'.",
            exit_code=done.returncode if done.returncode > 0 else 1,
        )


def lab_command(words: str) -> str:
    """`fab lab ...`, through sudo where namespaces need it."""
    if os.geteuid() == 0:
        return f"fab lab {words}"
    fab = Path(sys.executable).parent / "fab"
    return f"sudo {fab} lab {words}"


@contextlib.contextmanager
def tunnel(host: Host) -> Iterator[str]:
    """Keeps `fab tunnel --host ...` running; yields the endpoint once the engine answers through it."""
    port = host.tunnel_port
    endpoint = f"http://127.0.0.1:{port}"
    if answers(endpoint):
        out.print(f"A tunnel to {host.name} is open already: {endpoint}/v1")
        yield endpoint
        return
    command = f"fab tunnel --host {host.name}"
    out.print(f"$ {command}", style="bold")
    child = subprocess.Popen(
        command.split(),
        cwd=CHECKOUT,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    # What it says is told by this process, so that it never falls into the middle of an answer.
    up = threading.Event()
    telling = threading.Thread(target=tell, args=(child.stdout, up), daemon=True)
    telling.start()
    try:
        deadline = time.monotonic() + TUNNEL_TIMEOUT_S
        while not up.wait(0.2):
            if child.poll() is not None:
                raise OperatorError(f"'{command}' ended with {child.returncode} before it was open.")
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"{host.name} did not answer through {endpoint} in {TUNNEL_TIMEOUT_S:.0f} s."
                )
        yield endpoint
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGINT)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        telling.join(TUNNEL_TIMEOUT_S)


def tell(lines: Iterable[str], up: threading.Event) -> None:
    """Prints what `fab tunnel` says; `up` is set once it says that the engine answers."""
    for line in lines:
        out.print(line.rstrip("\n"), soft_wrap=True)
        if TUNNEL_UP in line:
            up.set()


def answers(endpoint: str) -> bool:
    """Whether an engine answers GET /v1/models at `endpoint`."""
    return bool(models(endpoint))


def models(endpoint: str) -> list[str]:
    """The model ids that the engine at `endpoint` offers; [] for whatever is no such answer."""
    try:
        limits = bounded_http.Limits(MODELS_TIMEOUT_S)
        status, body = bounded_http.ask(*_place(endpoint), "GET", engine_models.PATH, limits=limits)
        return [model["id"] for model in engine_models.parse(body)] if status == 200 else []
    except (bounded_http.HttpError, bounded_json.JsonError):
        return []


def _place(endpoint: str) -> tuple[str, int]:
    host, _colon, port = endpoint.removeprefix("http://").rpartition(":")
    return host, int(port)


def stream_chat(endpoint: str, prompt: str) -> Iterator[tuple[str, str]]:
    """One streamed chat completion; yields ("thought" or "answer", text) piece by piece as they arrive.

    Raises OperatorError when the engine refuses, sends what is no answer, or ends before its [DONE].
    """
    offered = models(endpoint)
    if not offered:
        raise OperatorError(f"The engine at {endpoint} offers no model.")
    body = {
        "model": offered[0],
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": 0,
        "max_tokens": 200,
    }
    headers = {"Content-Type": "application/json"}
    limits = bounded_http.Limits(STREAM_TIMEOUT_S, STREAM_BYTES)
    path = "/v1/chat/completions"
    try:
        with bounded_http.asking(
            *_place(endpoint), "POST", path, json.dumps(body), headers, limits
        ) as answer:
            if answer.status != 200:
                text = answer.said().strip()[:500]
                raise OperatorError(
                    f"The engine at {endpoint} refused the prompt with {answer.status}: {text}"
                )
            for line in answer.lines():
                event = line.removeprefix(b"data:").strip()
                if event == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    yield from _pieces(bounded_json.mapping(event))
    except bounded_http.HttpError as error:
        raise OperatorError(f"The answer from {endpoint} broke off: {error}.") from error
    except bounded_json.JsonError as error:
        raise OperatorError(f"An event from {endpoint} {error}.") from error
    raise OperatorError(f"The answer from {endpoint} broke off before its end.")


def _pieces(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The pieces of text in one event of a streamed chat completion."""
    for choice in bounded_json.objects(event.get("choices")):
        delta = bounded_json.child(choice, "delta")
        for kind, key in (("thought", "reasoning_content"), ("answer", "content")):
            if isinstance(delta.get(key), str) and delta[key]:
                yield kind, delta[key]


def ask(endpoint: str) -> None:
    """Sends the prompt and prints the answer as it streams, with the time to its first piece."""
    out.print(PROMPT, style="dim")
    start = time.monotonic()
    first: float | None = None
    pieces = 0
    before = ""
    for kind, piece in stream_chat(endpoint, PROMPT):
        first = first if first is not None else time.monotonic() - start
        pieces += 1
        if before and kind != before:
            out.print()
        out.print(piece, end="", style="dim italic" if kind == "thought" else "bold", soft_wrap=True)
        before = kind
    out.print()
    if first is None:
        raise OperatorError(f"The engine at {endpoint} answered with nothing.")
    out.print(
        f"{pieces} pieces, the first after {first:.2f} s, all in {time.monotonic() - start:.1f} s",
        style="dim",
    )


@dataclass(frozen=True)
class Outcome:
    """What a run of site.yml came to on a Mac. plan: None where none was made; stopped: why early."""

    plan: HostPlan | None
    changed: tuple[str, ...]
    stopped: str
    seconds: float


def outcomes(record: object) -> dict[str, Outcome]:
    """The record that the callback ds4_banner wrote. Raises OperatorError for one of another release."""
    if not isinstance(record, Mapping):
        raise OperatorError("the record of the run is not an object; is this ds4-fleet whole?")
    found = {}
    for host, told in record.items():
        try:
            plan = HostPlan.from_json(told["plan"], f"the plan of {host}") if told["plan"] else None
        except ModelError as error:
            raise OperatorError(str(error)) from None
        found[host] = Outcome(plan, tuple(told["changed"]), told["stopped"], told["seconds"])
    return found


def closing_table(fleet: Fleet, record: Mapping[str, Outcome], asked: str) -> None:
    """Host, role, model, context, engine commit, wired limit, endpoint, seconds: one line per Mac."""
    columns = ("host", "role", "model", "context", "engine", "wired limit", "endpoint", "seconds", "changes")
    shown = table("", *columns)
    for host in fleet:
        outcome = record.get(host.name)
        if outcome is None:
            continue
        plan = outcome.plan or HostPlan(host.name, host.region, role="")
        limit = plan.memory.wired_limit_mib if plan.memory else 0
        serves = plan.role in {"serve", "stream"}
        shown.add_row(
            styled(host.name, "bold" if host.name == asked else ""),
            plan.role or "-",
            plan.model.id if plan.model else "-",
            f"{plan.context:,}" if plan.context else "-",
            plan.engine.pinned[:12] if plan.engine else "-",
            f"{limit:,} MiB" if limit else "stock",
            f"http://127.0.0.1:{host.tunnel_port}/v1" if serves else "-",
            f"{outcome.seconds:.0f}",
            outcome.stopped or str(len(outcome.changed)),
        )
    out.print(shown)


def serving(fleet: Fleet, record: Mapping[str, Outcome]) -> Host:
    """The first Mac of the region that the run left serving."""
    for host in fleet:
        outcome = record.get(host.name)
        if outcome and outcome.plan and outcome.plan.role in {"serve", "stream"}:
            return host
    raise OperatorError(f"No Mac in {REGION} came out of the run as serving; the recap above says why.")


@operator_errors
def main() -> None:
    """Runs the demo; leaves the lab up. On macOS it runs itself in a Linux container."""
    if container.wanted():
        sys.exit(container.run(["make", "demo"], say=lambda line: out.print(f"$ {line}", style="bold")))
    locales.use_one_that_exists()
    demo = Demo()
    with demo.step("Boot simulated Macs: bare, as a rental hands them over"):
        run(lab_command(f"up --limit {LAB_LIMIT}"))
    with demo.step("Make them manageable: our key, their host key, Command Line Tools, power settings"):
        run(f"ansible-playbook playbooks/bootstrap.yml -l {LAB_LIMIT}")
    with (
        demo.step("Converge Tokyo: plan, account, engine, volumes, weights, service, tunnel, proof"),
        tempfile.TemporaryDirectory(prefix="ds4-demo-") as folder,
    ):
        record_file = Path(folder) / "site.json"
        run(f"ansible-playbook site.yml -l {REGION}", {"DS4_RUN_RECORD": str(record_file)})
        record = outcomes(json.loads(record_file.read_text()))
    fleet = Fleet.load(REGION)
    host = serving(fleet, record)
    with demo.step(f"Open a tunnel to {host.name} and ask it something"), tunnel(host) as endpoint:
        ask(endpoint)

    out.print()
    closing_table(fleet, record, host.name)
    took = ", ".join(f"{step.seconds:.0f} s" for step in demo.steps)
    out.print(f"\nDone in {time.monotonic() - demo.began:.0f} s (steps: {took}). The lab is still up:")
    bin_folder = Path(sys.executable).parent
    activate = (
        [f". {bin_folder.relative_to(CHECKOUT)}/activate"] if bin_folder.is_relative_to(CHECKOUT) else []
    )
    for command, what in (
        *((line, "once, for this shell") for line in activate),
        (lab_command(f"ssh {host.name}"), "look around in a Mac"),
        (f"fab tunnel --host {host.name}", "use its engine: http://127.0.0.1:" + f"{host.tunnel_port}/v1"),
        (f"ansible-playbook site.yml -l {REGION}", "converge again: nothing to change"),
        (f"ansible-playbook site.yml -l {LAB_LIMIT.partition(',')[2]}", "converge the other region"),
        (lab_command("down"), "stop it; nothing is left behind"),
    ):
        out.print(f"  {command:<44} {what}", soft_wrap=True)


if __name__ == "__main__":
    main()
