"""The model and engine catalogue: what there is to serve, as data, checked when it is read.

`load()` reads `catalogue.yml` beside this module and lays the files named in `ds4_catalogue` over it.
An extra file may hold `models`, `sidecars`, `families`, `quants`, `generations`, `engines`, `bad_commits`,
`severities` and `advisories` of the same form (an entry replaces ours of the same id), and `stand_ins`, which
say what is transferred and checked out in a rehearsal while all arithmetic keeps the true sizes:

    stand_ins:
      files: {<file name>: {bytes: 123, sha256: <hex>}}
      engines: {<pinned commit>: <commit to check out>}

Anything malformed raises OperatorError naming file and entry.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ds4fleet import yaml_text
from ds4fleet.catalogue.engines import Advisory, Engine, Generation, MemoryTraits
from ds4fleet.catalogue.entries import build
from ds4fleet.catalogue.types import (
    Catalogue,
    Family,
    Model,
    ModelFile,
    Piece,
    Quant,
    Shape,
    Sidecar,
    near,
)
from ds4fleet.errors import EXIT_USAGE, OperatorError

__all__ = [
    "Advisory",
    "Catalogue",
    "Engine",
    "Family",
    "Generation",
    "MemoryTraits",
    "Model",
    "ModelFile",
    "Piece",
    "Quant",
    "Shape",
    "Sidecar",
    "load",
]

BUILT_IN = Path(__file__).with_name("catalogue.yml")
_SECTIONS = (
    "schema",
    "families",
    "quants",
    "models",
    "sidecars",
    "listed",
    "generations",
    "engines",
    "bad_commits",
    "severities",
    "advisories",
    "stand_ins",
)


def load(extra: Sequence[str | Path] = ()) -> Catalogue:
    """The built-in catalogue with the files of `extra` laid over it, checked. Raises OperatorError."""
    return _load(tuple(str(path) for path in extra))


@functools.lru_cache(maxsize=8)
def _load_built_in() -> Mapping[str, Any]:
    return _read(BUILT_IN)


def _load(extra: tuple[str, ...]) -> Catalogue:
    merged: dict[str, dict[str, Any]] = {
        section: dict(_load_built_in().get(section, {})) for section in _SECTIONS if section != "schema"
    }
    where: dict[tuple[str, str], str] = {}
    for name in extra:
        path = Path(name).expanduser()
        for section, entries in _read(path).items():
            if section == "schema":
                continue
            if section == "stand_ins":
                for kind, items in entries.items():
                    if not isinstance(items, Mapping):
                        raise OperatorError(
                            f"catalogue file {path}: stand_ins.{kind} must be a mapping", exit_code=EXIT_USAGE
                        )
                    merged["stand_ins"].setdefault(kind, {})
                    merged["stand_ins"][kind] = {**merged["stand_ins"][kind], **items}
                continue
            for key, value in entries.items():
                merged[section][key] = value
                where[(section, key)] = str(path)
    return build(merged, where)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise OperatorError(f"catalogue file {path} cannot be read: {why}", exit_code=EXIT_USAGE) from None
    try:
        data = yaml_text.parse(text) or {}
    except yaml.YAMLError as error:
        raise OperatorError(
            f"catalogue file {path} is not YAML", exit_code=EXIT_USAGE, detail=str(error)
        ) from None
    if not isinstance(data, dict):
        raise OperatorError(f"catalogue file {path} must hold a mapping of sections", exit_code=EXIT_USAGE)
    for section, entries in data.items():
        if section not in _SECTIONS:
            raise OperatorError(
                f"catalogue file {path}: unknown section {section!r}{near(str(section), _SECTIONS)}",
                exit_code=EXIT_USAGE,
            )
        if section == "schema":
            if entries != 1:
                raise OperatorError(
                    f"catalogue file {path}: schema {entries!r} is not known", exit_code=EXIT_USAGE
                )
        elif not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
            raise OperatorError(
                f"catalogue file {path}: section {section} must map names to entries"
                " (quote names that look like numbers)",
                exit_code=EXIT_USAGE,
            )
    return data
