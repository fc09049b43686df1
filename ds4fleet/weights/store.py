"""What a Mac's directory of weights is held against: the catalogue's files and those of its plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.plan.make import make_plan


def known_and_kept(
    host: str, variables: Mapping[str, Any], observation: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """(`known` of the catalogue, names that the plan of this Mac has).

    variables: the host's, templated. observation: of the Mac, as what is declared of it may be wrong. Raises
    OperatorError when no plan can be made: what it would need is then not known.
    """
    catalogue = of(variables)
    plan = make_plan(host, variables, observation, catalogue)
    if plan.weights is None and plan.role != "jump":
        raise OperatorError(
            f"{host}: what it needs is not known, its plan refuses: {'; '.join(plan.refusals)}"
        )
    return known(catalogue), [file.name for file in plan.weights.files] if plan.weights else []


def of(variables: Mapping[str, Any]) -> Catalogue:
    """The catalogue of a host. Raises OperatorError for a file that cannot be read."""
    return load(tuple({**role_defaults(), **variables}["ds4_catalogue"]))


def known(catalogue: Catalogue) -> dict[str, Any]:
    """What each file of the catalogue is to be, as the role's modules take it."""
    models = {file.name: model.header for model in catalogue.models.values() for file in model.files}
    return {
        file.name: {
            "bytes": file.transfer_bytes,
            "sha256": file.transfer_sha256,
            "header": dict(models.get(file.name, {})),
        }
        for file in catalogue.files()
    }
