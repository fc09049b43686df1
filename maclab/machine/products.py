"""Macs by the words on their box: "Mac mini M4 24 GB" or "Mac Studio M3 Ultra 512 GB 4 TB"."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from maclab.errors import EXIT_USAGE, LabError

#: Model identifiers by product and chip. Source: Apple's "Identify your Mac" pages.
MODELS: dict[tuple[str, str], str] = {
    ("Mac mini", "M1"): "Macmini9,1",
    ("Mac mini", "M2"): "Mac14,3",
    ("Mac mini", "M2 Pro"): "Mac14,12",
    ("Mac mini", "M4"): "Mac16,10",
    ("Mac mini", "M4 Pro"): "Mac16,11",
    ("Mac Studio", "M1 Max"): "Mac13,1",
    ("Mac Studio", "M1 Ultra"): "Mac13,2",
    ("Mac Studio", "M2 Max"): "Mac14,13",
    ("Mac Studio", "M2 Ultra"): "Mac14,14",
    ("Mac Studio", "M4 Max"): "Mac16,9",
    ("Mac Studio", "M3 Ultra"): "Mac15,14",
    ("MacBook Air", "M1"): "MacBookAir10,1",
    ("MacBook Pro", "M1 Pro"): "MacBookPro18,1",
}
_TEXT = re.compile(
    r"\s*(?P<product>Mac mini|Mac Studio|MacBook Air|MacBook Pro)"
    r"(?:\s+(?P<chip>M[1-9](?:\s+(?:Pro|Max|Ultra))?))?"
    r"\s+(?P<memory>\d{1,4})\s*GB"
    r"(?:\s+(?P<storage>\d{1,5})\s*(?P<unit>GB|TB))?\s*",
    re.IGNORECASE,
)
#: The chip that a product of that memory (GB, at most) comes with when no chip is named; 0 = any.
_USUAL = {
    "Mac mini": ((32, "M4"), (0, "M4 Pro")),
    "Mac Studio": ((128, "M4 Max"), (0, "M3 Ultra")),
    "MacBook Air": ((0, "M1"),),
    "MacBook Pro": ((0, "M1 Pro"),),
}


@dataclass(frozen=True)
class Machine:
    """A Mac as it is sold. Sizes are those on the box: memory in GiB, storage in decimal GB."""

    product: str
    chip: str
    memory_gb: int
    storage_gb: int

    def hardware(self) -> dict[str, str | int]:
        """In the form that `HostSpec.hardware` takes."""
        return {
            "model": MODELS[(self.product, self.chip)],
            "form": self.product,
            "chip": f"Apple {self.chip}",
            "memory_gb": self.memory_gb,
            "storage_gb": self.storage_gb,
        }


def parse(text: str) -> Machine:
    """The Mac that a text like "Mac mini M4 24 GB" names; storage is 1 TB unless it is named too.

    Raises LabError for a text of another form and for a product that was not sold with that chip.
    """
    match = _TEXT.fullmatch(text)
    if not match:
        raise LabError(
            f"{text!r} is not a Mac: write product, chip, memory and, if it matters, storage, "
            "as in 'Mac mini M4 24 GB' or 'Mac Studio M3 Ultra 512 GB 4 TB'",
            exit_code=EXIT_USAGE,
        )
    product = next(name for name in _USUAL if name.lower() == match["product"].lower())
    memory_gb = int(match["memory"])
    chip = _chip(match["chip"] or "") or next(
        name for most, name in _USUAL[product] if not most or memory_gb <= most
    )
    if (product, chip) not in MODELS:
        sold = [name for kind, name in MODELS if kind == product]
        near = difflib.get_close_matches(chip, sold, 1) or sold[-1:]
        raise LabError(
            f"{text!r}: there is no {product} with the chip {chip}; did you mean {near[0]}?",
            exit_code=EXIT_USAGE,
        )
    storage_gb = int(match["storage"] or 1) * (1000 if (match["unit"] or "TB").upper() == "TB" else 1)
    return Machine(product, chip, memory_gb, storage_gb)


def _chip(text: str) -> str:
    """'m4 pro' as Apple writes it."""
    return " ".join(word[:1].upper() + word[1:].lower() for word in text.split())
