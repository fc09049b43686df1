# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Ask a running server: whether it is ready, what it serves with what, how it answers and how fast."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..border import bounded_http, bounded_json
from ..mac import parse, run
from ..mac.launchd import Launchd
from . import answers, models

if TYPE_CHECKING:
    from ..shapes import Figures, JobFacts, Server, Verify

POLL_S = 0.5
#: launchctl is a process of its own, and a job between two lives must not be taken for a dead one.
LOOK_S = 0.25
PROBE_TIMEOUT_S = 5
#: A test answer of a streaming Mac at 2 tokens a second.
CHAT_TIMEOUT_S = 180
MAX_TOKENS = 64
LOG_BYTES = 16384


class VerifyError(Exception):
    """One sentence: what is not as planned."""


def tail(path: str) -> str:
    """The last bytes of a log as text, "" when it is not there."""
    try:
        with open(path, "rb") as handle:
            handle.seek(max(0, os.stat(path).st_size - LOG_BYTES))
            return handle.read().decode("utf-8", "replace")
    except OSError:
        return ""


def ask(
    server: Server, method: str, path: str, body: object = None, timeout_s: float = PROBE_TIMEOUT_S
) -> dict[str, Any] | None:
    """The JSON object that the server answers with, None while it cannot be reached.

    timeout_s: for all of it. VerifyError for any other status, and for what is no such answer.
    """
    host = "127.0.0.1" if server["host"] == "0.0.0.0" else server["host"]  # noqa: S104 (compared, not bound)
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json"} if data else {}
    try:
        status, said = bounded_http.ask(
            host, server["port"], method, path, data, headers, bounded_http.Limits(timeout_s)
        )
        if status == 200:
            return bounded_json.mapping(said)
    except bounded_http.Unreachable:
        return None
    except bounded_http.HttpError as error:
        raise VerifyError("%s %s: %s" % (method, path, error)) from None
    except bounded_json.JsonError as error:
        raise VerifyError("the answer to %s %s %s" % (method, path, error)) from None
    text = said.decode("utf-8", "replace")[:200].strip()
    raise VerifyError("%s %s was answered with %d: %s" % (method, path, status, text))


def wait_until_ready(
    server: Server, ready_s: float, poll_s: float = POLL_S
) -> tuple[JobFacts, dict[str, Any]]:
    """(job, /v1/models body) once the job's process answers; VerifyError when it cannot or is too late."""
    launchd, watch = Launchd(ready_s), answers.Watch()
    deadline = time.monotonic() + ready_s
    job, look_at = None, 0.0
    while True:
        body = ask(server, "GET", models.PATH)
        if body is not None or time.monotonic() >= look_at:
            job = launchd.look(server["label"])
            look_at = time.monotonic() + LOOK_S
            if watch.failed(job):
                if job is None:
                    raise VerifyError("%s is not loaded" % server["label"])
                why = answers.why_down(tail(server["log_path"]), job)
                raise VerifyError("the server does not stay up: " + why)
            if body is not None and job and job["pid"] is not None:
                return job, body
        if time.monotonic() >= deadline:
            raise VerifyError(
                "the server was not ready after %d s: %s"
                % (ready_s, answers.why_down(tail(server["log_path"]), job or {}))
            )
        time.sleep(poll_s)


def complete(
    server: Server, body: Mapping[str, Any], prompt: str, max_tokens: int = MAX_TOKENS
) -> tuple[dict[str, Any], float]:
    """(chat completion, seconds) of one deterministic prompt; VerifyError when none comes."""
    began = time.monotonic()
    asked = {
        "model": next((one.get("id") for one in bounded_json.objects(body.get("data"))), None),
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    reply = ask(server, "POST", "/v1/chat/completions", asked, CHAT_TIMEOUT_S)
    if reply is None:
        raise VerifyError("the server did not answer the test prompt within %d s" % CHAT_TIMEOUT_S)
    return reply, time.monotonic() - began


def prove_serving(
    server: Server,
    verify: Verify,
    weights: Sequence[str],
    poll_s: float = POLL_S,
    *,
    occupied: bool = False,
) -> Figures:
    """Figures of a server that is as planned; raises VerifyError with everything that is not.

    occupied: it is asked for no answer, as it would come behind the prompt that the server reads.
    """
    began = time.monotonic()
    job, body = wait_until_ready(server, verify["ready_s"], poll_s)
    ready_s = time.monotonic() - began
    pid = job["pid"]
    probes = run.run_all(
        {
            "ps": run.argv("ps", "-ww", "-o", "args=", "-p", pid),
            "open": run.argv("lsof", "-nP", "-p", pid, "-F", "pn"),
            "listen": run.argv("lsof", "-nP", "-iTCP:%d" % server["port"], "-sTCP:LISTEN", "-F", "pcn"),
            "pressure": run.argv("memory_pressure", "-Q"),
        }
    )
    names = {name for process in parse.lsof(probes["open"].out) for name in process["names"]}
    objections = answers.models(body, verify["model_name"], verify["context"])
    objections += answers.command_line(probes["ps"].out, server["argv"])
    objections += answers.open_files(names, weights)
    objections += answers.listeners(
        parse.listening(probes["listen"].out), server["host"], server["port"], pid
    )
    free_mib: int | None = None
    short: list[str] = []
    pressure = parse.memory_pressure(probes["pressure"].out)
    if pressure["memory_bytes"] and pressure["free_percent"] is not None:
        free_mib, short = answers.headroom(
            pressure["free_percent"], pressure["memory_bytes"], verify["headroom_mib"]
        )
    objections += short
    if objections:
        raise VerifyError("; ".join(objections))

    found: Figures = {
        "ready_s": round(ready_s, 2),
        "model_name": verify["model_name"],
        "context": verify["context"],
        "answer": "",
        "completion_tokens": None,
        "tokens_per_s": None,
        "headroom_mib": free_mib,
        "pid": pid,
    }
    return found if occupied else _answered(found, server, verify, body)


def _answered(found: Figures, server: Server, verify: Verify, body: dict[str, Any]) -> Figures:
    """The figures with what the server answers to the prompt of `verify`."""
    reply, elapsed_s = complete(server, body, verify["prompt"])
    answer, objections = answers.completion(reply, verify.get("expect"))
    if objections:
        raise VerifyError("; ".join(objections))
    found["answer"], found["completion_tokens"] = answer["text"], answer["tokens"]
    found["tokens_per_s"] = round(answer["tokens"] / elapsed_s, 2) if answer["tokens"] else None
    return found
