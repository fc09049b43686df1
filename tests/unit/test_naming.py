"""An installation with another prefix shares nothing on a Mac with that of the fleet."""

from __future__ import annotations

import re

from ds4agent import naming
from ds4fleet.components import registry
from ds4fleet.components.base import Named
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.layout import CHECKOUT, Paths
from ds4fleet.plan.make import make_plan

HOSTS = CHECKOUT / "inventory" / "hosts.yml"
OWN = {
    "ds4_root": naming.PROOF_ROOT,
    "ds4_service_user": "_a",
    "ds4_seed_user": "_b",
    "ds4_tunnel_user": "_c",
}
#: Notes and locks of a moment, which both may have.
SHARED = re.compile(
    r"/var/run/ds4-((storage|engine|weights|user)\.lock|verify\.json|command-line-tools\.pid)"
)


def variables(**more: object) -> dict[str, object]:
    return {**Fleet.load("tyo-01", [HOSTS]).host("tyo-01").vars, **more}


def test_no_path_and_no_label_is_that_of_a_fleet() -> None:
    usual, own = (registry.watched(Paths(root), Named()) for root in naming.ROOTS)
    assert len(usual.files) == len(own.files) > 40
    assert set(usual.labels) & set(own.labels) == set()
    assert set(usual.files) & set(own.files) == set()


def test_no_text_names_the_other_one() -> None:
    made = make_plan("tyo-01", variables(**OWN))
    assert made.refusals == []
    texts = [f"{entry.path}\n{entry.content}" for entry in made.files]
    texts += [str(made.jobs), str(made.server), str(made.weights)]
    for text in texts:
        assert not re.search(r"/opt/ds4(?!-prove)|com\.ds4fleet(?!-prove)|/var/log/ds4(?!-prove)", text), text


def test_what_is_removed_is_its_own() -> None:
    settings = {**role_defaults(), **OWN, "ds4_storage_models_volume": "m", "ds4_storage_kv_volume": "k"}
    usual, own = registry.removed(role_defaults()), registry.removed(settings)
    for part in ("labels", "files", "trees", "data", "users"):
        assert set(getattr(usual, part)) & set(getattr(own, part)) == set(), part
    assert {path for path in own.notes if not SHARED.fullmatch(path)} == set()


def test_any_other_root_is_refused() -> None:
    made = make_plan("tyo-01", variables(ds4_root="/opt/other"))
    assert made.refusals == ["tyo-01: ds4_root is '/opt/other'; it must be one of /opt/ds4, /opt/ds4-prove"]
