"""A locale that this machine has: a minimal system has few, and a login brings names from elsewhere."""

from __future__ import annotations

import locale
import os

_ALWAYS_THERE = ("C.UTF-8", "en_US.UTF-8")
"""Of glibc and musl, and of macOS."""


def use_one_that_exists() -> None:
    """Put one that exists in the place of one that does not, for this process and what it starts: Ansible
    refuses to start without.
    """
    try:
        locale.setlocale(locale.LC_ALL, "")
        return
    except locale.Error:
        pass
    for name in _ALWAYS_THERE:
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        os.environ["LC_ALL"] = name
        return
