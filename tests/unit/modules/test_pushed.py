"""Files that the controller pushes, as the fetch of a Mac sees them."""

import hashlib
import json

import pytest

from ds4agent.weights import install, progress
from ds4agent.weights import route as weights_route
from tests.support.waited_fetch import Place
from tests.unit.modules.test_weights import DATA, HEADER

URLS = ["file:///Volumes/a/w.gguf", "file:///Volumes/b/w.gguf", "https://hub.example/w.gguf"]


@pytest.fixture
def route(tmp_path):
    order = {"id": "0123", "files": [], "peers": [{"name": "tyo-01", "wait": True}], "push": "/tmp/p.sock"}
    (tmp_path / "order.json").write_text(json.dumps(order))
    state = progress.State(str(tmp_path), order)
    dialled = []

    def dial(source):
        dialled.append(source["name"])
        return source.get("socket") or ["/usr/bin/false"]

    made = weights_route.Route(order, state, dial, None, wait=lambda seconds: None, clock=lambda: 0.0)
    made.dialled = dialled
    return made


def test_the_controller_is_one_source_in_its_place_among_the_others(route):
    found = route.sources({"urls": URLS})
    assert [source["name"] for source in found] == ["tyo-01", "controller", "hub.example"]
    found = route.sources({"urls": URLS[::-1]})
    assert [source["name"] for source in found] == ["tyo-01", "hub.example", "controller"]
    assert [source["name"] for source in route.sources({"urls": URLS[2:]})] == ["tyo-01", "hub.example"]


def test_what_is_pushed_comes_under_the_cap_of_the_wide_link(route):
    assert route.pushed["wide"] and route.pushed["socket"] == "/tmp/p.sock"


def test_a_controller_that_is_away_is_waited_for_longer_than_a_source(route, monkeypatch):
    class Part:
        done, done_bytes, total_bytes, chunk_bytes, total = {}, 0, 1, 1, 1

        def missing(self):
            return [0]

        def sync(self):
            """Nothing has come."""

    monkeypatch.setattr(weights_route, "MAX_ROUNDS_PUSHED", 7)
    with pytest.raises(install.InstallError, match="not connected: No such file"):
        route.complete({"name": "w.gguf", "bytes": 1, "urls": URLS[:1]}, Part(), set())
    assert route.dialled.count("controller") == 7


def test_what_is_only_pushed_is_not_looked_for_on_the_mac_itself(tmp_path):
    (tmp_path / "source.gguf").write_bytes(DATA)
    item = {"name": "w.gguf", "path": str(tmp_path / "w.gguf"), "bytes": len(DATA), "header": HEADER}
    item.update(sha256=hashlib.sha256(DATA).hexdigest(), urls=["file://%s/source.gguf" % tmp_path])
    place = Place(tmp_path)
    with pytest.raises(install.InstallError, match="it is pushed by `fab prefetch`"):
        place.bring(item, place.look(item))
