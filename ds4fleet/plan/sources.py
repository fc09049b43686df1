"""`ds4_weights_sources`: hubs that Macs fetch from, and directories of this machine that are pushed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.plan.types import WeightFile

PUSHED = "file://"


def check(endpoints: Sequence[str]) -> None:
    """Raises OperatorError for a list that nothing could come from; looks at no disk."""
    for endpoint in endpoints:
        if endpoint.startswith(PUSHED) and not endpoint.startswith(f"{PUSHED}/"):
            raise OperatorError(
                f"ds4_weights_sources has {endpoint}; a directory of this machine is written with its whole"
                " path, as file:///Volumes/weights",
                exit_code=EXIT_USAGE,
            )
    if not endpoints or not all(re.match(r"(https?://[^/\s]+|file:///)", endpoint) for endpoint in endpoints):
        raise OperatorError(
            "ds4_weights_sources must list endpoints such as https://huggingface.co or file:///Volumes/weights",
            exit_code=EXIT_USAGE,
        )


def directory_of(url: str) -> Path:
    """The path on this machine that a file:// URL names."""
    return Path(url.removeprefix(PUSHED))


def objections(files: Sequence[WeightFile], endpoints: Sequence[str]) -> list[str]:
    """Why these files cannot come from where they are to come from, as far as this machine can tell."""
    pushed = [directory_of(endpoint) for endpoint in endpoints if endpoint.startswith(PUSHED)]
    sentences = [
        f"ds4_weights_sources names {folder}, which is no directory here; attach the disk or drop the source"
        for folder in pushed
        if files and not folder.is_dir()
    ]
    if sentences:
        return sentences
    for file in files:
        paths = [directory_of(url) for url in file.urls if url.startswith(PUSHED)]
        for path in paths:
            if path.is_file() and path.stat().st_size != file.bytes:
                sentences.append(
                    f"{path} has {path.stat().st_size:,} bytes, the catalogue says {file.bytes:,}; put the"
                    " right file there or take it away"
                )
        if len(paths) == len(file.urls) and not any(path.is_file() for path in paths):
            where = " or ".join(str(path.parent) for path in paths) or "any source"
            sentences.append(f"{file.name} is not in {where}, and ds4_weights_sources names nothing else")
    return sentences
