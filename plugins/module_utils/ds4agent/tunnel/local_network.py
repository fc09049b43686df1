"""Local Network privacy of macOS 15 and later, told apart from a line that is down.

An agent of launchd, or a program of a terminal that is not Apple's, needs a permission to reach a Mac of its
own network. Without it connect(2) says "No route to host". System daemons and root need none (TN3179). (B)
"""

from __future__ import annotations

import ipaddress
import os
import re

_REFUSED = re.compile(r"connect to (?:host|address) (\S+) port \d+: No route to host")
FIX = (
    "where another program reaches it, macOS keeps this one from the local network: allow it in System"
    " Settings, Privacy & Security, Local Network"
)


def hint(said: str) -> str:
    """What to do where the standard error of an ssh of this machine may speak of that privacy; else ""."""
    found = _REFUSED.search(said)
    if os.uname().sysname != "Darwin" or os.geteuid() == 0 or found is None:
        return ""
    name = found[1].partition("%")[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return FIX if name.endswith(".local") else ""
    return FIX if address.is_private and not address.is_loopback else ""
