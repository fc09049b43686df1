# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""GET /v1/models of an engine, or of whoever else answers at its port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..border import bounded_json

if TYPE_CHECKING:
    from ..shapes import Model

PATH = "/v1/models"
#: An engine lists one model under a few aliases.
MOST = 100
MAX_NAME = 200


def parse(data: bytes | str) -> list[Model]:
    """[{id, name, context_length}] of a body (bytes or text); name "" and context_length None where not said.

    Raises JsonError for what is not a list of models.
    """
    found: list[Model] = []
    for entry in bounded_json.objects(bounded_json.mapping(data).get("data"))[:MOST]:
        if isinstance(entry.get("id"), str) and entry["id"]:
            found.append(
                {
                    "id": entry["id"][:MAX_NAME],
                    "name": bounded_json.text(entry.get("name"), MAX_NAME),
                    "context_length": bounded_json.count(entry.get("context_length")),
                }
            )
    if not found:
        raise bounded_json.JsonError("is not a list of models")
    return found
