"""What ds4-fleet does about the faults of the lab, from tests/integration/faults.yml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = Path(__file__).parents[1] / "integration" / "faults.yml"


@dataclass(frozen=True)
class Answer:
    """What ds4-fleet does about a fault. `held_by`: `file::function` below tests/integration."""

    answer: str
    held_by: str


ANSWERS: dict[str, Answer] = {
    name: Answer(**entry) for name, entry in yaml.safe_load(FILE.read_text()).items()
}
"""By the fault's name."""
