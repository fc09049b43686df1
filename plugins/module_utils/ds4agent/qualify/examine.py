# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Look at a built engine as an Order says: the parts, one after another, each process within limits."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..border import plain
from ..engine import capabilities, parser
from ..mac import output
from . import asked, kept, stopped, weights
from .confined import Bench, Broken, Limits
from .order import Order, Report, Request, Seen, Stop, Weights

#: Letters of what an engine said that are kept of each look.
SAID = 300
#: `ds4 --inspect` reads the header, binds the tensors and ends, without a backend.
INSPECT = ("--inspect", "-m")
HELP_BYTES = 1 << 20


def examine(order: Order) -> Report:
    """Everything, in a folder of its own that is gone afterwards."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ds4-qualify-") as name:
        scratch = Path(name).resolve()
        limits = Limits(order.memory_bytes, order.start_s, order.answer_s)
        bench = Bench(Path(order.folder), scratch, limits, order.arguments)
        return _examine(bench, order, began)


def _examine(bench: Bench, order: Order, began: float) -> Report:
    until = began + order.within_s
    flags, topics, targets = _capabilities(bench)
    unseen: list[str] = []
    found = [_loads(bench, order, one) for one in order.weights]
    hostile = [_loads(bench, order, one) for one in order.hostile_weights]
    serves, requests = Seen("serve", "not asked"), []
    checkpoints: list[Seen] = []
    odd: list[Seen] = []
    stop: Stop | None = None
    model = _servable(order, found)
    if not order.serve:
        unseen.append("no server was started: requests, KV checkpoints and stop")
    elif model is None:
        unseen.append("it loads none of the headers, so no server could be started")
    else:
        path = _file(bench, order, model)
        serves = _serves(bench, path)
        if serves.end == "listens":
            checkpoints = [kept.look(bench, path, one, order.model) for one in order.checkpoints]
            odd = [kept.look(bench, path, one, order.model) for one in order.hostile_checkpoints]
            stop = stopped.look(bench, path, order.stop_s) if order.stop_s else None
            requests = _requests(bench, path, order, until)
        else:
            unseen.append("the server did not come to listen: requests, KV checkpoints and stop")
    left = len(order.requests) - len(requests) if serves.end == "listens" else len(order.requests)
    return Report(
        tuple(flags), tuple(topics), tuple(targets), tuple(found), tuple(hostile), tuple(requests), left,
        tuple(checkpoints), tuple(odd), stop, serves, tuple(unseen), round(time.monotonic() - began, 1),
    )  # fmt: skip


def _capabilities(bench: Bench) -> tuple[list[str], list[str], list[str]]:
    """Flags by probe, topics of the help, targets that the download script lists."""

    def text(*words: str) -> str:
        done = bench.run("ds4-server", *words)
        return done.stdout + done.stderr if done.returncode == 0 else ""

    locked = parser.ENVIRONMENT["DS4_LOCK_FILE"]
    front = text("--help")
    by_topic = {topic: text("--help", topic) for topic in capabilities.TOPICS}
    own = capabilities.topics(front, by_topic)

    def ends(words: Sequence[str]) -> int:
        return bench.run("ds4-server", *words, lock=locked).returncode

    found = parser.flags(ends, front, *[by_topic[topic] for topic in own])
    script = bench.folder / "download_model.sh"
    listed = []
    if script.is_file():
        done = output.run(
            ["/bin/sh", str(script), "--help"],
            bench.limits.start_s,
            max_bytes=HELP_BYTES,
            cwd=str(bench.scratch),
            env=bench.environment(bench.scratch / "lock"),
        )
        listed = capabilities.targets(done.stdout + done.stderr)
    return found, own, [shown(one) for one in listed]


def _file(bench: Bench, order: Order, one: Weights) -> Path:
    path = bench.scratch / ("%s.gguf" % "".join(c if c.isalnum() else "-" for c in one.name))
    keys = {**one.keys, **(weights.vocabulary(order.marks, one.vocab) if one.vocab else {})}
    tensors = next((other.tensors for other in order.weights if other.name == one.like), one.tensors)
    weights.write(path, keys, tensors, one.wrong)
    return path


def _loads(bench: Bench, order: Order, one: Weights) -> Seen:
    path = _file(bench, order, one)
    try:
        done = bench.run("ds4", *bench.arguments, *INSPECT, str(path))
    except OSError as error:
        return Seen(one.name, "broken", None, "ds4 cannot be run: %s" % error.strerror)
    finally:
        path.unlink()
    # A complaint about one tensor comes before those of its followers.
    lines = [line for line in done.stderr.splitlines() if line.strip() and "warning" not in line]
    said = shown(lines[-1] if lines else "")
    if done.cut:
        return Seen(one.name, "silent", None, said)
    if done.returncode == 0:
        return Seen(one.name, "loads", 0)
    crashed = asked.is_crash(done.returncode)
    return Seen(one.name, "crashed" if crashed else "refused", done.returncode, said)


def _servable(order: Order, found: Sequence[Seen]) -> Weights | None:
    good = {seen.what for seen in found if seen.end == "loads"}
    return next((one for one in order.weights if one.name in good), None)


def _serves(bench: Bench, path: Path) -> Seen:
    try:
        with bench.server("-m", str(path), "--ctx", "1"):
            return Seen("serve", "listens")
    except Broken as broken:
        return Seen("serve", "broken", broken.status, shown(broken.said))


def _requests(bench: Bench, path: Path, order: Order, until: float) -> list[Seen]:
    """Each request to a process of its own, as many as the time allows."""

    def ask(request: Request) -> Seen | None:
        return asked.look(bench, path, request) if time.monotonic() < until else None

    with ThreadPoolExecutor(order.at_once) as pool:
        return [seen for seen in pool.map(ask, order.requests) if seen is not None]


def shown(text: str) -> str:
    """One line of what an engine says, as it may be shown and kept."""
    return str(plain.line(text, SAID))
