"""The order of the files: those that take longest begin, so that the processes end together."""

from __future__ import annotations

import pytest

#: About how many seconds each takes; those that are not listed take less than any of these.
SECONDS = {
    "test_prefetch": 34,
    "test_engine_server": 26,
    "test_switch_cuts": 14,
    "test_engine_start": 14,
    "test_engine_build": 12,
    "test_plan": 11,
    "test_weights_push": 6,
    "test_upstreams": 5,
    "test_render_scripts": 4,
    "test_fleet": 4,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest comes first, unless the order is to be one of chance."""
    if config.pluginmanager.has_plugin("randomly"):
        return
    items.sort(key=lambda item: -SECONDS.get(item.path.stem, 0))
