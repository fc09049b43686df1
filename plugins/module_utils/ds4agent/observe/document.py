# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What `ds4agent observe` prints: one JSON document with the parts that were asked for.

The Mac makes it, the controller reads it; both sides of the wall are here. A reader takes nothing for
granted: what has another type than it should is empty, a text has a limit, and a document of another schema
is refused.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ..border import bounded_json

SCHEMA = 1
#: Of the whole document. 4,096 weights files would be 2 MiB.
MAX_BYTES = 4 * 1024 * 1024
#: Of one text; a reason is one sentence, a path has up to 1,024 bytes (PATH_MAX of macOS).
MAX_TEXT = 1024
#: A directory of weights has a few dozen files.
MAX_FILES = 1000
MAX_NOTES = 20
MAX_MODELS = 100


class SchemaError(ValueError):
    """What is wrong with a document, as a clause to stand behind "its answer"."""


@dataclass(frozen=True)
class Model:
    """What the engine offers under a name. context: tokens, 0 where it does not say."""

    id: str
    context: int


@dataclass(frozen=True)
class Server:
    """The Mac and its engine. "" and 0 stand for what is not there or not known.

    release, weights, sha256: those of the process that runs, else of the configuration. job: state of the
    server's job. answer: what is wrong with an answer at the engine's port. stopped: why
    the memory watchdog holds the engine back. waits, notes: what the boot jobs wait for and what they found.
    """

    macos: str = ""
    booted_at_s: int = 0
    wired_limit_mib: int = 0
    release: str = ""
    weights: str = ""
    sha256: str = ""
    job: str = ""
    pid: int = 0
    ended: str = ""
    """How the process before this one, or the last one, ended; "" for one that ended well or never ran."""
    models: tuple[Model, ...] = ()
    answer: str = ""
    stopped: str = ""
    waits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Server:
        """Reads the part."""
        models = bounded_json.objects(value.get("models"))[:MAX_MODELS]
        return cls(
            macos=_text(value, "macos"),
            booted_at_s=_count(value, "booted_at_s"),
            wired_limit_mib=_count(value, "wired_limit_mib"),
            release=_text(value, "release"),
            weights=_text(value, "weights"),
            sha256=_text(value, "sha256"),
            job=_text(value, "job"),
            pid=_count(value, "pid"),
            ended=_text(value, "ended"),
            models=tuple(Model(_text(one, "id"), _count(one, "context")) for one in models),
            answer=_text(value, "answer"),
            stopped=_text(value, "stopped"),
            waits=_texts(value, "waits"),
            notes=_texts(value, "notes"),
        )


@dataclass(frozen=True)
class Version:
    """A version by what its server.conf says: release id, path and sha256 ("" unknown) of its weights."""

    release: str
    weights: str
    sha256: str

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Version | None:
        """Reads the part; None where there is none."""
        made = cls(_text(value, "release"), _text(value, "weights"), _text(value, "sha256"))
        return made if made.release and made.weights else None


@dataclass(frozen=True)
class Lock:
    """Who holds this Mac for a rollout; "?" for what the lock does not say."""

    run_id: str
    owner: str
    since: str


@dataclass(frozen=True)
class Rollout:
    """The lock of this Mac, its last switch, and the versions that it serves and could roll back to."""

    lock: Lock | None = None
    run_id: str = ""
    phase: str = ""
    reason: str = ""
    drained: bool = False
    serves: Version | None = None
    before: Version | None = None
    #: Why what was saved of the version before cannot be read.
    before_trouble: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Rollout:
        """Reads the part."""
        lock = bounded_json.child(value, "lock")
        return cls(
            lock=Lock(*(_text(lock, name) or "?" for name in ("run_id", "owner", "since"))) if lock else None,
            run_id=_text(value, "run_id"),
            phase=_text(value, "phase"),
            reason=_text(value, "reason"),
            drained=value.get("drained") is True,
            serves=Version.from_json(bounded_json.child(value, "serves")),
            before=Version.from_json(bounded_json.child(value, "before")),
            before_trouble=_text(value, "before_trouble"),
        )


@dataclass(frozen=True)
class WeightsFile:
    """A file in the directory of weights. kind: proven, unproven, part or wrong; used: who needs it."""

    name: str
    size_bytes: int
    kind: str
    proven_at: str = ""
    sha256: str = ""
    used: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """The directory of weights."""

    files: tuple[WeightsFile, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Weights:
        """Reads the part."""
        return cls(
            tuple(
                WeightsFile(
                    name=_text(one, "name"),
                    size_bytes=_count(one, "size_bytes"),
                    kind=_text(one, "kind"),
                    proven_at=_text(one, "proven_at"),
                    sha256=_text(one, "sha256"),
                    used=_texts(one, "used"),
                )
                for one in bounded_json.objects(value.get("files"))[:MAX_FILES]
            )
        )


@dataclass(frozen=True)
class Progress:
    """How far a fetch or a verification is; state "" where none is known."""

    state: str = ""
    file: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: int = 0
    source: str = ""
    error: str = ""
    reason: str = ""
    updated_at_s: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Progress:
        """Reads the part."""
        return cls(
            state=_text(value, "state"),
            file=_text(value, "file"),
            done_bytes=_count(value, "done_bytes"),
            total_bytes=_count(value, "total_bytes"),
            bytes_per_s=_count(value, "bytes_per_s"),
            source=_text(value, "source"),
            error=_text(value, "error"),
            reason=_text(value, "reason"),
            updated_at_s=_count(value, "updated_at_s"),
        )


@dataclass(frozen=True)
class Document:
    """Whatever was asked for, and the Mac's clock; None for what was not."""

    now_s: int
    server: Server | None = None
    rollout: Rollout | None = None
    weights: Weights | None = None
    staging: Progress | None = None
    verifying: Progress | None = None


def render(document: Document) -> str:
    """The document as JSON in one line. Raises SchemaError where it is too long."""
    value = {"schema": SCHEMA, **dataclasses.asdict(document)}
    text = json.dumps({name: part for name, part in value.items() if part is not None})
    if len(text) > MAX_BYTES:
        raise SchemaError("is longer than %d bytes" % MAX_BYTES)
    return text


def parse(text: str) -> Document:
    """Reads a document. Raises SchemaError for what is not one, or is of another schema than this
    program's."""
    try:
        value: dict[str, Any] = bounded_json.mapping(text, max_bytes=MAX_BYTES)
    except bounded_json.JsonError as error:
        raise SchemaError(str(error)) from None
    if value.get("schema") != SCHEMA:
        other = str(value.get("schema"))[:20]
        raise SchemaError("has the schema %s, this program reads %d" % (other, SCHEMA))

    def part(name: str, kind: Any) -> Any:
        found = value.get(name)
        return kind.from_json(found) if isinstance(found, dict) else None

    return Document(
        now_s=_count(value, "now_s"),
        server=part("server", Server),
        rollout=part("rollout", Rollout),
        weights=part("weights", Weights),
        staging=part("staging", Progress),
        verifying=part("verifying", Progress),
    )


def _text(value: dict[str, Any], name: str) -> str:
    return str(bounded_json.text(value.get(name), MAX_TEXT))


def _count(value: dict[str, Any], name: str) -> int:
    return int(bounded_json.count(value.get(name)) or 0)


def _texts(value: dict[str, Any], name: str) -> tuple[str, ...]:
    found = value.get(name)
    many = found[:MAX_NOTES] if isinstance(found, list) else []
    return tuple(one[:MAX_TEXT] for one in many if isinstance(one, str))
