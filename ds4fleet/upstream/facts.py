"""What a qualification looks for, from `catalogue/qualification.yml`: data of the package."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from ds4agent.border import shaped
from ds4agent.qualify.order import Checkpoint, Model, Request, Weights
from ds4fleet import yaml_text
from ds4fleet.catalogue import read
from ds4fleet.catalogue.read import Catalogue, Family, Quant, Shape

DATA = Path(read.__file__).with_name("qualification.yml")
#: Of the routed experts, the type that goes down where gate and up have another one (catalogue.yml, quants).
_IQ2_XXS, _Q2_K = 16, 10
_HASHED_LAYERS = 3
_CLAMP = 10.0


@functools.cache
def data() -> dict[str, Any]:
    """The file, read once."""
    found: dict[str, Any] = yaml_text.parse(DATA.read_text(encoding="utf-8"))
    return found


def model(shape: Shape) -> Model:
    """What a checkpoint's payload follows from."""
    return Model(shape.layers, shape.head_dim, shape.indexer_dim, shape.vocab, shape.ratios())


def weights(catalogue: Catalogue) -> tuple[Weights, ...]:
    """A header for each family and quant of which a model is published whole; Flash q2 is the first."""
    found = []
    for family in catalogue.families.values():
        kinds = {one.quant for one in catalogue.models.values() if one.family == family.id}
        if family.id in data()["unknown_families"]:
            found += [_unknown(family, quant) for quant in catalogue.quants if quant in kinds]
            continue
        for quant in catalogue.quants.values():
            if quant.id in kinds:
                keys = _keys(family)
                found.append(
                    Weights(f"{family.id} {quant.id}", keys, tensors(family.shape, quant), family.shape.vocab)
                )
    return tuple(found)


def _unknown(family: Family, quant: str) -> Weights:
    architecture = data()["unknown_families"][family.id]["architecture"]
    keys = {"general.architecture": architecture, "general.name": family.title}
    return Weights(f"{family.id} {quant}", keys, (("token_embd.weight", 1, (family.shape.embd, 32)),), 0)


def hostile_weights(catalogue: Catalogue) -> tuple[Weights, ...]:
    """The header of Flash q2, wrong in one place each."""
    sound = weights(catalogue)[0]
    return tuple(
        Weights(name, {"x": 0, **sound.keys}, (), 128, wrong, like=sound.name)
        for name, wrong in data()["hostile_weights"].items()
    )


def tensors(shape: Shape, quant: Quant) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
    """(name, GGML type, dimensions) of all tensors of a model."""
    rules = data()["tensors"]
    found = [_tensor(name, rule, shape, 0, 0, 0) for name, rule in rules["head"].items()]
    for layer, ratio in enumerate(shape.ratios()):
        late = quant.last_layers and layer >= shape.layers - quant.last_layers
        gate = quant.last_gate_type if late else quant.first_gate_type
        down = _Q2_K if gate == _IQ2_XXS else gate
        parts = ["layer", "first" if layer < _HASHED_LAYERS else "rest"]
        parts += ["compressed"] * bool(ratio) + ["indexed"] * (ratio == 4)
        for name, rule in chain.from_iterable(rules[part].items() for part in parts):
            found.append(_tensor(f"blk.{layer}.{name}", rule, shape, ratio, gate, down))
    return (*found, *(_tensor(name, rule, shape, 0, 0, 0) for name, rule in rules["tail"].items()))


def _tensor(
    name: str, rule: list[Any], shape: Shape, ratio: int, gate: int, down: int
) -> tuple[str, int, tuple[int, ...]]:
    kind = {"experts": gate, "down": down}.get(rule[0], rule[0])
    words = {
        "ratio": ratio,
        "wide": 2 if ratio == 4 else 1,
        "mix": shape.hyper_connections + 2,
        "group_heads": shape.heads // shape.out_groups,
    }
    return name, int(kind), tuple(_product(str(one), words, shape) for one in rule[1:])


def _product(text: str, words: Mapping[str, int], shape: Shape) -> int:
    made = 1
    for word in text.split(" * "):
        made *= int(word) if word.isdigit() else words.get(word) or int(getattr(shape, word))
    return made


def _keys(family: Family) -> dict[str, object]:
    shape, rules = family.shape, data()["keys"]
    found: dict[str, object] = {
        "general.architecture": family.header["architecture"],
        "general.name": family.title,
        **family.header["keys"],
    }
    for name, value in {**rules["common"], **rules[family.id]}.items():
        own = {"ratios": list(shape.ratios()), "clamp": [_CLAMP] * shape.layers}
        said = own.get(value) or getattr(shape, value) if isinstance(value, str) else value
        found[f"{family.header['architecture']}.{name}"] = said
    return found


def requests() -> tuple[Request, ...]:
    """The crash corpus, so ordered that each kind and place comes early: time may be short."""
    rules = data()["requests"]
    groups = [list(_of_place(place, rules)) for place in rules["places"]]
    groups.append([Request(name, "/v1/messages", **one) for name, one in rules["whole"].items()])
    groups.append([Request(name, **one) for name, one in rules["raw"].items()])
    return tuple(one for row in zip_longest(*groups) for one in row if one is not None)


def _of_place(place: Mapping[str, Any], rules: Mapping[str, Any]) -> Iterator[Request]:
    for value in rules["wrong"]:
        for field in place["fields"]:
            yield Request("wrong type", place["path"], place["body"] % f'"{field}":{value}')
    for value in rules["twice"]:
        for field in place["fields"]:
            both = f'"{field}":{rules["sound"]},"{field}":{value}'
            yield Request("field twice", place["path"], place["body"] % both)


def checkpoints(section: str) -> tuple[Checkpoint, ...]:
    """KV checkpoints of a section of the data, `checkpoints` or `hostile_checkpoints`."""
    return tuple(
        shaped.read(Checkpoint, {"what": what, **one}, what) for what, one in data()[section].items()
    )
