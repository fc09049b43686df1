"""The role's ds4_json under the name that it has beside these modules on a jump Mac (see jump_files)."""

from __future__ import annotations

from typing import Any

from ds4fleet.role_code import ds4_json as _role

JsonError: type[ValueError] = _role.JsonError


def loads(data: bytes | str, **limits: int) -> Any:
    """The value of JSON from outside; raises JsonError."""
    return _role.loads(data, **limits)


def mapping(data: bytes | str, **limits: int) -> dict[str, Any]:
    """The same where only an object will do."""
    found: dict[str, Any] = _role.mapping(data, **limits)
    return found


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list from JSON."""
    found: list[dict[str, Any]] = _role.objects(value)
    return found


def count(value: Any) -> int | None:
    """A whole number from JSON or in digits, None for anything else."""
    found: int | None = _role.count(value)
    return found
