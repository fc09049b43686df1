"""Volumes on external disks: used when the inventory allows them, and said. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ds4agent.model import Container, Observation, Volume


def external(
    observation: Observation | None, asked: str | None, volumes: Iterable[Volume | None]
) -> list[str]:
    """The external containers that a plan would use: the one asked for, and those that its volumes are in.

    What macOS itself boots from is none of them: privacy settings don't tell it from an internal one.
    """
    if observation is None:
        return []
    wanted = [volume for volume in volumes if volume is not None]
    return [
        item.reference
        for item in observation.storage.containers
        if _outside(item, observation.storage.boot_container)
        and (item.reference == asked or any(volume in item.volumes for volume in wanted))
    ]


def _outside(container: Container, boot: str | None) -> bool:
    """diskutil's list is silent on disks that have no volume of ours: what is unknown counts as external."""
    return container.internal is not True and container.reference != boot


def verdict(settings: Mapping[str, object], containers: Iterable[str]) -> tuple[list[str], list[str]]:
    """(refusals, warnings) of a plan that uses these external containers."""
    refusals, warnings = [], []
    for reference in containers:
        if settings["ds4_storage_external"]:
            warnings.append(
                f"container {reference} is on an external disk: each run proves that a daemon reads and"
                " writes there before anything is kept there; without the disk this Mac does not serve"
            )
        else:
            refusals.append(
                f"container {reference} is on an external disk, where macOS may forbid daemons to read:"
                " leave ds4_storage_container auto for the internal one, or set ds4_storage_external: true"
            )
    return refusals, warnings
