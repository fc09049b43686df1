# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""The program `ds4agent observe`: what verbs ask of a Mac between two runs of a playbook.

It only reads, and needs no root: the administrator's account runs it over ssh. It says on standard output
what ds4agent.observe.document has.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any, Callable

from .. import naming, saved_state
from ..border import bounded_http, bounded_json, plain
from ..engine import answers, release
from ..engine import models as engine_models
from ..mac import parse, safe
from ..mac.run import argv, run_all
from ..switch.core import conf_values
from ..switch.state import Places, read_json, text_of
from ..weights import stamp as weights_stamp
from ..weights import store
from . import document

#: A Mac under memory pressure takes seconds for each; the controller waits for a minute.
COMMANDS_TIMEOUT_S = 30
MODELS_TIMEOUT_S = 5
#: What a boot job, the memory watchdog or a server.conf has is far below.
MAX_FILE_BYTES = 65536
SYSCTLS = ("kern.osproductversion", "kern.boottime", "iogpu.wired_limit_mb")


def server(root: str, port: int) -> document.Server:
    """The Mac and its engine."""
    commands = {
        "sysctl": argv("sysctl", *SYSCTLS),
        "job": argv("launchctl", "print", "system/" + naming.label(root, "server")),
    }
    results = run_all(commands, timeout_s=COMMANDS_TIMEOUT_S)
    values = parse.sysctl(results["sysctl"].out)
    job = parse.launchctl_print(results["job"].out if results["job"].ok else "")
    models, answer = _offered(port)
    boot = [_settings("%s/boot/%s.state" % (root, name)) for name in ("mounts", "wired")]
    serves = _serves(root, running=bool(job["pid"]))
    stopped = _settings(root + "/watchdog/stopped").get("reason", [])
    return document.Server(
        macos=str(values.get("kern.osproductversion", "")),
        booted_at_s=parse.boot_time_s(values.get("kern.boottime")) or 0,
        wired_limit_mib=bounded_json.count(values.get("iogpu.wired_limit_mb")) or 0,
        release=serves.release if serves else release.linked_id(root + "/engine", "current") or "",
        weights=serves.weights if serves else "",
        sha256=serves.sha256 if serves else "",
        job=job["state"] or "",
        pid=job["pid"] or 0,
        ended=answers.ended(job),
        models=models,
        answer=answer,
        stopped=stopped[-1] if stopped else "",
        waits=tuple(one for found in boot for one in found.get("reason", [])),
        notes=tuple(one for found in boot for one in found.get("note", [])),
    )


def _serves(root: str, *, running: bool) -> document.Version | None:
    """The version that the process has, or would have if it were started now."""
    places = ["/var/server.running.conf"] if running else []
    found = [version(safe.text(root + one, MAX_FILE_BYTES)) for one in [*places, "/etc/server.conf"]]
    return next((one for one in found if one), None)


def _offered(port: int) -> tuple[tuple[document.Model, ...], str]:
    """(the models of the engine at this port of the loopback, what is wrong with its answer)."""
    try:
        limits = bounded_http.Limits(MODELS_TIMEOUT_S)
        _status, body = bounded_http.ask("127.0.0.1", port, "GET", engine_models.PATH, limits=limits)
        found = engine_models.parse(body)
    except bounded_http.HttpError:
        return (), ""
    except bounded_json.JsonError as error:
        return (), str(error)
    return tuple(document.Model(one["id"], one["context_length"] or 0) for one in found), ""


def _settings(path: str) -> dict[str, list[str]]:
    """A file of KEY=VALUE lines; {} where there is none that can be read."""
    found: dict[str, list[str]] = {}
    for line in safe.text(path, MAX_FILE_BYTES).splitlines():
        key, equals, value = line.partition("=")
        if equals and value:
            found.setdefault(key, []).append(value)
    return found


def rollout(root: str) -> document.Rollout:
    """The lock, the last switch and the versions of this Mac."""
    places = Places(root)
    journal: dict[str, Any] = read_json(places.journal) or {}
    lock: dict[str, Any] = read_json(places.lock) or {}
    before, trouble = _before(places.previous)
    words = [str(lock.get(name, "?")) for name in ("run_id", "owner", "since")]
    return document.Rollout(
        lock=document.Lock(*words) if lock else None,
        run_id=str(journal.get("run_id", "")),
        phase=str(journal.get("phase", "")),
        reason=str(journal.get("reason", "")),
        drained=bool(read_json(places.drain)),
        serves=version(safe.text(root + "/etc/server.conf", MAX_FILE_BYTES)),
        before=before,
        before_trouble=trouble,
    )


def version(conf: str) -> document.Version | None:
    """The version that a server.conf stands for."""
    single, many = conf_values(conf)
    sha256, _blank, path = (many["weights"] or [""])[0].partition(" ")
    if not single.get("release") or not path:
        return None
    return document.Version(single["release"], path, sha256)


def _before(path: str) -> tuple[document.Version | None, str]:
    """(the version that a rollback goes to, why what is there cannot be gone back to)."""
    try:
        state = saved_state.load(path)
    except saved_state.StateError as error:
        return None, str(error)
    if state is None:
        return None, ""
    config = state["proof"]["server"]["config_path"]
    found = [one for one in state["files"] if (one["path"], one["kind"]) == (config, "file")]
    return (version(text_of(found[0])) if found else None), ""


def weights(root: str) -> document.Weights:
    """The directory of weights, and who needs what is in it."""
    folder, needed, found = root + "/models", store.users(root), []
    for item in store.items(folder)[: document.MAX_FILES]:
        path = os.path.join(folder, item.name)
        try:
            size = os.stat(path).st_size
        except OSError:
            continue
        stamp = weights_stamp.read(path)[0] if item.kind in ("proven", "unproven") else None
        proven_at, sha256, prefetched_for = (
            (stamp["proven_at"], stamp["sha256"], stamp["prefetched_for"]) if stamp else ("", "", "")
        )
        used = ["running" if word == "served" else word for word in needed.get(item.name, ())]
        if not used and prefetched_for:
            used = ["prefetched for " + prefetched_for]
        found.append(document.WeightsFile(item.name, size, item.kind, proven_at, sha256, tuple(used)))
    return document.Weights(tuple(found))


def staging(root: str) -> document.Progress:
    """How far the fetch of this Mac is."""
    return _progress(naming.transfer(root) + "/status.json")


def verifying(_root: str) -> document.Progress:
    """How far the verification of weights is."""
    return _progress(store.STATUS)


def _progress(path: str) -> document.Progress:
    said: dict[str, Any] = read_json(path) or {}
    return document.Progress.from_json({**said, "updated_at_s": said.get("updated_at")})


PARTS: dict[str, Callable[[str], Any]] = {
    "rollout": rollout,
    "weights": weights,
    "staging": staging,
    "verifying": verifying,
}


def look(root: str, port: int, names: list[str]) -> document.Document:
    """The document with these parts."""
    parts = {name: PARTS[name](root) for name in names if name != "server"}
    if "server" in names:
        parts["server"] = server(root, port)
    return document.Document(now_s=int(time.time()), **parts)


def main(arguments: list[str]) -> int:
    """Prints the document; 1 and a sentence on standard error where a part cannot be read."""
    options = argparse.ArgumentParser(prog="ds4agent observe", description=__doc__)
    known = sorted({"server", *PARTS})
    options.add_argument("--part", action="append", required=True, choices=known)
    options.add_argument("--root", default=naming.ROOT)
    options.add_argument("--port", type=int, default=8000)
    chosen = options.parse_args(arguments)
    try:
        said = document.render(look(chosen.root, chosen.port, chosen.part))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.stderr.write("ds4agent observe: %s: %s\n" % (type(error).__name__, plain.line(error, 300)))
        return 1
    sys.stdout.write(said + "\n")
    return 0
