"""The fake upstreams publish what ds4-fleet's catalogue knows, though the lab reads nothing of it."""

from __future__ import annotations

import importlib.machinery
import importlib.util

from ds4fleet.layout import CHECKOUT
from maclab import published


def test_the_data_are_those_of_the_catalogue() -> None:
    path = str(CHECKOUT / "scripts" / "published")
    loader = importlib.machinery.SourceFileLoader("published_script", path)
    spec = importlib.util.spec_from_loader("published_script", loader)
    assert spec
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    assert published.DATA.read_text() == script.document(), "run: python scripts/published"
