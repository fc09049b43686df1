# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What a version gives on this Mac: figures before a switch and after it, and whether it stays good."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import saved_state
from ..border import bounded_json
from ..engine import answers, serving
from ..engine import models as engine_models
from ..mac import run
from . import core, state

if TYPE_CHECKING:
    from ..mac.launchd import Launchd
    from ..shapes import Figures, Proof, State, SwitchOrder

#: A prompt whose answer is long enough to measure by, and how much of it. The better of the runs counts.
SPEED_PROMPT = "Write the numbers from one to two hundred in words, separated by commas."
SPEED_TOKENS = 96
SPEED_RUNS = 2


class GateError(Exception):
    """One sentence: why the version must not stay."""


def models(proof: Proof) -> dict[str, Any] | None:
    """The body of /v1/models, None where no engine answers as it should."""
    try:
        return serving.ask(proof["server"], "GET", engine_models.PATH)
    except serving.VerifyError:
        return None


def speed(proof: Proof) -> float | None:
    """Tokens per second of the better run, None when none could be measured."""
    best = None
    for _run in range(SPEED_RUNS):
        body = models(proof)
        if body is None:
            continue
        reply, seconds = serving.complete(proof["server"], body, SPEED_PROMPT, SPEED_TOKENS)
        tokens = answers.tokens(reply)
        if tokens and seconds > 0:
            best = max(best or 0, round(tokens / seconds, 2))
    return best


def figures(proof: Proof, poll_s: float, *, occupied: bool = False) -> Figures:
    """Proves that the version serves as it should and measures it; raises VerifyError.

    occupied: it reads a prompt that no client waits for, so it is asked for nothing and its speed is None.
    """
    found = serving.prove_serving(
        proof["server"], proof["verify"], proof["weights"], poll_s, occupied=occupied
    )
    if not occupied:
        found["tokens_per_s"] = speed(proof)
    return found


def state_now(order: SwitchOrder, poll_s: float, *, occupied: bool = False) -> State:
    """The STATE of what serves now, with its `figures`: all that is needed to come back to it.

    occupied: as of `figures`. Raises VerifyError when it does not serve; a rollback may also leave a version
    that does not.
    """
    like = order["target"]["proof"]
    conf = state.look(like["server"]["config_path"])
    if conf["kind"] != "file":
        raise GateError("%s is not there: nothing serves that could be upgraded" % conf["path"])
    text = state.text_of(conf)
    proof = core.proof_of(text, like, None, None)
    is_upgrade = order["kind"] == "upgrade"
    body = serving.wait_until_ready(proof["server"], 10)[1] if is_upgrade else models(proof)
    for first in bounded_json.objects((body or {}).get("data"))[:1]:
        name, context = (
            bounded_json.text(first.get("name")) or None,
            bounded_json.count(first.get("context_length")),
        )
        proof = core.proof_of(text, like, name, context)
    limit = run.run("sysctl", "-n", "iogpu.wired_limit_mb")
    return {
        "schema": saved_state.SCHEMA,
        "files": [state.look(entry["path"]) for entry in order["target"]["files"]],
        "wired_limit_mib": int(limit.out) if limit.ok and limit.out.strip().isdigit() else None,
        "kv_dir": proof["server"]["kv_dir"],
        "proof": proof,
        "figures": figures(proof, poll_s, occupied=occupied) if is_upgrade else None,
    }


def stays_good(
    launchd: Launchd, proof: Proof, pid: int | None, seconds: float, each_time: Callable[[], object]
) -> None:
    """Returns after so many seconds in which the same process answered; raises GateError otherwise."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        each_time()
        job = launchd.look(proof["server"]["label"])
        if job is None or job["pid"] != pid:
            why = answers.why_down(serving.tail(proof["server"]["log_path"]), job or {})
            raise GateError("it did not stay up: " + why)
        if serving.ask(proof["server"], "GET", engine_models.PATH) is None:
            raise GateError("it stopped answering")
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))
