"""The role's ds4_plain under the name that it has beside these modules on a jump Mac (see jump_files)."""

from __future__ import annotations

from ds4fleet.role_code import ds4_plain as _role


def line(value: object, most: int | None = None) -> str:
    """Text from outside as one line of which nothing does anything."""
    return str(_role.line(value, most))
