"""The simulated fleet: Linux hosts that behave, over ssh, as the Macs of the inventory do (docs/lab.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maclab.lab import HostSpec, Lab

__all__ = ["HostSpec", "Lab"]


def __getattr__(name: str) -> Any:
    # Late, so that the small processes inside a Mac do not load the operator's side.
    if name in __all__:
        from maclab import lab

        return getattr(lab, name)
    raise AttributeError(name)
