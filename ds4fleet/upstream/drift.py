"""`fab upstream --drift`: what the sources of a checkout say, held against the catalogue. Nothing is run.

Where the sources say it is data (`catalogue/qualification.yml`, sources). What is not found there any more
is a drift too: the catalogue rests on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4agent.border import plain
from ds4fleet.catalogue.engines import Generation
from ds4fleet.catalogue.read import Catalogue
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.upstream import facts

#: ds4.c of August has 3 MB.
SOURCE_BYTES = 32 << 20
_FLAG = re.compile(r'strcmp\s*\(\s*arg\s*,\s*"(-[\w-]{1,60})"\s*\)')
_VARIABLE = re.compile(r'^([A-Z][A-Z0-9_]*)="([^"\n]*)"', re.M)
_TARGET = re.compile(r"^ {2,}([a-z0-9][a-z0-9.|-]*)\)", re.M)
_FILE = re.compile(r'MODEL_FILES?="?([^";\n]*)')
_NUMBER = re.compile(r"\.(n_\w+)\s*=\s*(\d{1,18})\s*,")
_NAME = re.compile(r'\.name\s*=\s*"([^"\n]{1,80})"')
_PARSER = re.compile(
    r"^(?:static )?\w+ (?:parse_options|ds4_dist_parse_cli_arg|ds4_tp_parse_cli_arg)\(", re.M
)


@dataclass(frozen=True)
class Difference:
    """One thing: its kind (target, flag, table, default), name, what the catalogue and the sources say."""

    kind: str
    name: str
    catalogue: str
    source: str


class Sources:
    """Files of a checkout, read once each as far as SOURCE_BYTES."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, str] = {}

    def text(self, name: str) -> str:
        """A file; raises OperatorError where it is missing, no regular file, or longer than any known one."""
        if name not in self._read:
            path = self.folder / name
            try:
                if not path.is_file():
                    raise OperatorError(
                        f"{self.folder} has no {name}: it is not a checkout of ds4", exit_code=EXIT_USAGE
                    )
                with path.open("rb") as handle:
                    data = handle.read(SOURCE_BYTES + 1)
            except OSError as error:
                raise OperatorError(
                    f"{path} cannot be read: {error.strerror}", exit_code=EXIT_USAGE
                ) from None
            if len(data) > SOURCE_BYTES:
                raise OperatorError(f"{path} is longer than {SOURCE_BYTES >> 20} MiB", exit_code=EXIT_USAGE)
            self._read[name] = data.decode("utf-8", "replace")
        return self._read[name]

    def found(self, rule: list[str]) -> str:
        """What the group of [file, pattern] is; "" where it is not there."""
        match = re.search(rule[1], self.text(rule[0]), re.S)
        return match.group(1) if match else ""


def drift(folder: Path, generation: Generation, catalogue: Catalogue) -> list[Difference]:
    """Everything that differs. Raises OperatorError for what is not a checkout."""
    sources, rules = Sources(folder), facts.data()["sources"]
    return [
        *_targets(sources, rules, generation, catalogue),
        *_flags(sources, rules, generation),
        *_tables(sources, rules, generation, catalogue),
        *_defaults(sources, rules, generation),
    ]


def source_flags(folder: Path) -> list[str]:
    """Flags that the server's parser takes, by its sources."""
    return sorted(_parsed(Sources(folder), facts.data()["sources"]))


# Download targets.


def _targets(
    sources: Sources, rules: Mapping[str, Any], generation: Generation, catalogue: Catalogue
) -> Iterator[Difference]:
    has = targets(sources.text(rules["script"]))
    known = _known_targets(generation, catalogue)
    files = {name for names in known.values() for name in names}
    for target in sorted(has.keys() | known.keys()):
        if target not in has:
            yield Difference("target", target, ", ".join(known[target]), "not there")
        elif target not in known:
            # A part of what another target brings whole.
            if not has[target] or not set(has[target]) <= files:
                yield Difference("target", target, "not there", ", ".join(has[target]) or "files not told")
        elif has[target] and known[target] and not _same_files(has[target], known[target]):
            yield Difference("target", target, ", ".join(known[target]), ", ".join(has[target]))


def targets(script: str) -> dict[str, tuple[str, ...]]:
    """{target: file names, without folders} of download_model.sh; () where a loop makes them."""
    variables = dict(_VARIABLE.findall(script))
    for _round in range(3):
        variables = {name: _filled(value, variables) for name, value in variables.items()}
    begin = script.find('case "$MODEL" in')
    arms = script[begin : script.find("\nesac", begin)] if begin >= 0 else ""
    heads = list(_TARGET.finditer(arms))
    found: dict[str, tuple[str, ...]] = {}
    for number, head in enumerate(heads):
        end = heads[number + 1].start() if number + 1 < len(heads) else len(arms)
        body = arms[head.end() : end].split("\n    *)")[0]
        said = [name for text in _FILE.findall(body) for name in _filled(text, variables).split()]
        names = tuple(dict.fromkeys(name.rpartition("/")[2] for name in said if "$" not in name))
        for target in head.group(1).split("|"):
            if not target.startswith("-") and target != "help":
                found[target] = names
    return found


def _filled(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?([A-Z][A-Z0-9_]*)\}?", lambda found: variables.get(found[1], found[0]), text)[:4096]


def _known_targets(generation: Generation, catalogue: Catalogue) -> dict[str, tuple[str, ...]]:
    known: dict[str, tuple[str, ...]] = {}
    for one in (*catalogue.models.values(), *catalogue.sidecars.values()):
        if generation.id in one.targets:
            known[one.targets[generation.id]] = tuple(
                name for file in one.files for name in (file.name, *(piece.name for piece in file.pieces))
            )
    for listed in catalogue.listed.values():
        if generation.id in listed.targets:
            known[listed.targets[generation.id]] = tuple(name for name, *_rest in listed.files)
    return known


def _same_files(has: tuple[str, ...], known: tuple[str, ...]) -> bool:
    return bool(set(has) & set(known)) and (set(has) <= set(known) or set(known) <= set(has))


# Flags.


def _flags(sources: Sources, rules: Mapping[str, Any], generation: Generation) -> Iterator[Difference]:
    has, known = _parsed(sources, rules), set(generation.flags)
    for flag in sorted(has ^ known):
        there = flag in has
        yield Difference("flag", flag, "not there" if there else "taken", "taken" if there else "not there")


def _parsed(sources: Sources, rules: Mapping[str, Any]) -> set[str]:
    names = list(rules["flags"])
    coordinator = rules["tensor_parallel"]
    if re.search(coordinator["when"], sources.text(rules["server"])):
        names.append(coordinator["file"])
    found = {flag for name in names for part in _parsers(sources.text(name)) for flag in _FLAG.findall(part)}
    aliases: Mapping[str, str] = rules["aliases"]
    found = {aliases.get(flag, flag) for flag in found}
    return {one for one in found if one.startswith("--")} - {"--help", *rules["other_backends"]}


def _parsers(text: str) -> Iterator[str]:
    """Bodies of the functions that read a command line; the server's file has tests of its own, too."""
    for found in _PARSER.finditer(text):
        end = text.find("\n}\n", found.start())
        yield text[found.start() : end if end >= 0 else len(text)]


# Tables: shapes of families, types of routed experts.


def _tables(
    sources: Sources, rules: Mapping[str, Any], generation: Generation, catalogue: Catalogue
) -> Iterator[Difference]:
    shapes = re.findall(rules["shapes"], sources.text(rules["engine"]), re.S)
    seen = set()
    for name, body in shapes:
        title = _NAME.search(body)
        family = rules["shape_names"].get(title.group(1)) if title else None
        if family is None:
            continue
        seen.add(family)
        said = {key: int(value) for key, value in _NUMBER.findall(body)}
        for field, ours in rules["fields"].items():
            wanted = getattr(catalogue.families[family].shape, ours)
            if said.get(field) != wanted:
                yield Difference("table", f"{name}.{field}", str(wanted), str(said.get(field, "not there")))
    for family in generation.loads:
        if family not in seen:
            yield Difference("table", f"shape of {family}", "loaded", "not there")
    yield from _expert_types(sources, rules, generation, catalogue)


def _expert_types(
    sources: Sources, rules: Mapping[str, Any], generation: Generation, catalogue: Catalogue
) -> Iterator[Difference]:
    body = sources.found(rules["expert_types"])
    has = {number for name, number in rules["type_names"].items() if re.search(rf"\b{name}\b", body)}
    loaded = {quant for quants in generation.loads.values() for quant in quants}
    for quant in catalogue.quants.values():
        types = {quant.first_gate_type, quant.last_gate_type}
        if (types <= has) != (quant.id in loaded):
            ours = "loaded" if quant.id in loaded else "not loaded"
            yield Difference(
                "table", f"expert types of {quant.id}", ours, "loaded" if types <= has else "not loaded"
            )


# Default values.


def _defaults(sources: Sources, rules: Mapping[str, Any], generation: Generation) -> Iterator[Difference]:
    for flag, rule in rules["defaults"].items():
        if flag in generation.flags:
            yield from _value(flag, generation.defaults.get(flag, "not there"), sources.found(rule))
    yield from _value("payload ABI", str(generation.payload_abi), sources.found(rules["payload_abi"]))
    deep = str(generation.kv.cold_max_tokens)
    yield from _value("--kv-cache-cold-max-tokens", deep, sources.found(rules["cold_max_tokens"]))


def _value(name: str, ours: str, said: str) -> Iterator[Difference]:
    try:
        same = bool(said) and float(said) == float(ours)
    except ValueError:
        same = False
    if not same:
        yield Difference("default", name, ours, plain.line(said or "not there", 60))
