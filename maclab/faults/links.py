"""Faults of a Mac's link."""

from __future__ import annotations

from maclab.faults.base import LinkFault

LINK_DOWN = LinkFault("link-down", "the Mac's network cable is out", "any network", {"down": True})
LOSSY_LINK = LinkFault(
    "lossy-link", "one packet in fifty is lost on the Mac's link", "lines over oceans", {"loss": 0.02}
)
SLOW_LINK = LinkFault("slow-link", "the Mac's link carries 20 Mbit/s", "rented lines", {"mbps": 20.0})
