"""A bundle of a real Mac for the lab: facts of a twin with its quirks, and recordings for parsers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ds4agent.border import bounded_json
from ds4agent.mac import parse
from ds4agent.model import ModelError, Observation
from ds4fleet.cli.prove.bundle import SCHEMA, redacted
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.layout import CHECKOUT
from maclab.machine import stock

#: Where recordings of real Macs are kept; tests/unit/test_recorded.py holds each to what is assumed.
RECORDINGS = CHECKOUT / "tests" / "recordings" / "proofs"
#: A bundle has some MiB.
MOST_BYTES = 64 << 20
#: Commands of a proof by name, and whether their output says what it is read for.
READERS: Mapping[str, Callable[[str], bool]] = {
    "machine": lambda text: int(parse.sysctl(text)["hw.memsize"]) > 0,
    "volumes": lambda text: bool(parse.apfs_containers(text)),
    "mounts": lambda text: "/" in [item["mount_point"] for item in parse.mounts(text)],
    "disabled jobs": lambda text: len(parse.launchctl_disabled(text)) == text.count("=>"),
    "the server's job": lambda text: bool(parse.launchctl_print(text)["state"]),
    "its job again": lambda text: parse.launchctl_print(text)["pid"] is not None,
    "listening ports": lambda text: bool(parse.listening(text)),
}


def read(path: Path) -> dict[str, Any]:
    """A bundle, checked. Raises OperatorError for what no proof has written."""
    try:
        size = path.stat().st_size
        whole = bounded_json.mapping(path.read_bytes(), max_bytes=MOST_BYTES) if size <= MOST_BYTES else {}
    except (OSError, bounded_json.JsonError) as error:
        raise OperatorError(f"{path} is no bundle of a proof: {error}", exit_code=EXIT_USAGE) from None
    if whole.get("schema") != SCHEMA or not isinstance(whole.get("about"), dict):
        raise OperatorError(
            f"{path} is no bundle of a proof that this release reads; make one with fab prove",
            exit_code=EXIT_USAGE,
        )
    try:
        Observation.from_json(
            {key: item for key, item in facts_of(whole).items() if key != "answers"}, str(path)
        )
    except ModelError as error:
        raise OperatorError(f"{error}; make the bundle anew with fab prove", exit_code=EXIT_USAGE) from None
    return whole


def facts_of(whole: Mapping[str, Any]) -> dict[str, Any]:
    """What was observed, with the Mac's answers."""
    found = whole.get("facts")
    return dict(found) if isinstance(found, dict) else {}


def bring(path: Path, host: str, facts: Path, recordings: Path = RECORDINGS) -> list[str]:
    """Keeps the bundle for the lab; returns sentences on what was written, and on what the lab does not know.

    facts: the folder for `fab lab up --from`, which then boots a twin in the place of `host`.
    """
    whole = redacted(read(path), {})
    facts.mkdir(parents=True, exist_ok=True)
    recordings.mkdir(parents=True, exist_ok=True)
    about = whole["about"]
    words = f"{about.get('model', '')}-{about.get('memory_gb', '')}gb-macos{about.get('macos', '')}"
    kept = recordings / (re.sub(r"[^a-z0-9.-]+", "_", words.lower()) + ".json")
    twin, text = facts / f"{host}.json", json.dumps(whole, indent=1, sort_keys=True)
    twin.write_text(json.dumps(facts_of(whole), indent=1, sort_keys=True) + "\n")
    kept.write_text(text + "\n")
    return [
        f"{twin}: fab lab up --limit {host} --from {facts} boots a Mac that behaves like it",
        f"{kept}: tests/unit/test_recorded.py holds the parsers and the lab to it",
        *problems(whole),
    ]


def problems(whole: Mapping[str, Any]) -> list[str]:
    """What in a bundle cannot be read, or what the lab has no quirk for: each a sentence."""
    found = []
    for told in whole["commands"]:
        holds = READERS.get(told["name"])
        if holds is None or told["status"] != 0:
            continue
        try:
            if not holds(told["out"]):
                found.append(f"{told['step']}: {told['name']}: the output does not say what it should")
        except (parse.ParseError, LookupError, ValueError, TypeError) as error:
            found.append(f"{told['step']}: {told['name']}: {type(error).__name__}: {error}")
    about = whole["about"]
    hardware = {key: about[key] for key in ("model", "chip", "memory_gb") if key in about}
    try:
        stock.bare("twin", "", hardware).assume(bounded_json.child(facts_of(whole), "answers"))
    except KeyError as error:
        found.append(f"the lab has no quirk {error}: add it to Quirks in maclab/machine/model.py")
    return found
