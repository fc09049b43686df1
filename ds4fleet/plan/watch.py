"""What to observe on a Mac, so that any plan for it can be compared with what is there. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ds4fleet.catalogue.read import Catalogue, Model, load
from ds4fleet.components import registry, server, version_switch
from ds4fleet.components.base import Named
from ds4fleet.errors import OperatorError
from ds4fleet.inventory import defaults
from ds4fleet.layout import Paths
from ds4fleet.plan import choice
from ds4fleet.plan.settings import Reader


def watch(variables: Mapping[str, object]) -> dict[str, object]:
    """The arguments of ds4_info for a host: every path, user and label that any plan for it can need.

    The Mac may turn out to be another one than the inventory declares. Malformed variables are not judged
    here.
    """
    settings = {**defaults.role_defaults(), **variables}
    paths = Paths(str(settings["ds4_root"]))
    watched = registry.watched(paths, named(settings))
    users = [str(settings[f"ds4_{account}_user"]) for account in ("service", "tunnel", "seed")]
    port = str(settings["ds4_port"])
    return {
        "files": list(watched.files),
        "labels": list(watched.labels),
        "users": users,
        "groups": users,
        "engine_root": paths.engine,
        "switch_dir": version_switch.folder(paths.root),
        "models_dir": paths.models,
        "volumes_conf": paths.volumes,
        "port": int(port) if port.isdigit() else 0,
        "running_config": paths.running_config,
    }


def named(settings: Mapping[str, object]) -> Named:
    """What these settings, with the role's defaults, may lead a plan to name on a Mac of any size.

    Nothing for settings of which no plan can be made.
    """
    try:
        catalogue = load(Reader(settings).names("ds4_catalogue"))
        engine = catalogue.engine(str(settings["ds4_engine_commit"]).strip().lower())
        models = _models(catalogue, str(settings["ds4_model"]))
    except OperatorError:
        return Named()
    generations = [catalogue.generation(engine.generation)]
    if not engine.known:
        # Which it is turns out when it is built.
        generations = list(catalogue.generations.values())
    forms = dict.fromkeys([engine.payload_abi, *(one.payload_abi for one in generations)])
    main = [
        (model.family, file.transfer_sha256)
        for model in models
        for file in model.files
        if file.kind == "model" and file.transfer_sha256
    ]
    kv = (server.kv_name(family, sha256, form) for family, sha256 in main for form in forms)
    return Named((engine.commit[:12],), tuple(dict.fromkeys(kv)))


def _models(catalogue: Catalogue, model: str) -> list[Model]:
    """The model that is asked for, or those that `auto` chooses from. Raises OperatorError."""
    names = choice.models_of_auto() if model == "auto" else [model]
    return [catalogue.model(name) for name in names]
