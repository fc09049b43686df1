"""What a simulated command says about itself; docs/lab-commands.md is made from these entries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CommandInfo:
    """One command of the simulated Mac.

    `paths`: where macOS has it. `source`: the recording or manual page it follows. `confidence`: A
    recorded on a current macOS or in Apple's manual, B one source or an older release, C general knowledge
    (the marks of the references). `does`: what is simulated, `lacks`: what is not.
    """

    name: str
    paths: tuple[str, ...]
    source: str
    confidence: str
    does: str
    lacks: str = ""
    module: str = ""
