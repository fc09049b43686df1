"""What a Mac is given for its part in a transfer of weights."""

import json
import time
from pathlib import Path

import pytest

from tests.support import collection

ORDER = {"id": "new", "seed_slots": 1}


@pytest.fixture
def prefetch(tmp_path, monkeypatch):
    """The folder of a Mac, written to by the account that runs the tests."""
    module = collection.module("ds4_prefetch")
    monkeypatch.setattr(module, "replace", lambda path, data, *_owned: Path(path).write_bytes(data))
    return module.Prefetch(str(tmp_path), str(tmp_path / "keys"), dry=False)


def was(prefetch, order_id, state):
    """What an earlier run has left."""
    for name, value in (("order", {"id": order_id}), ("status", {"id": order_id, "state": state})):
        Path(prefetch.path(f"{name}.json")).write_text(json.dumps({**value, "updated_at": time.time()}))


def lent(prefetch, tmp_path):
    """Whether a token lies there once the order is given out."""
    prefetch.order(ORDER, [], "", "hf_secret")
    return (tmp_path / "token.env").exists()


def test_a_token_is_lent_for_an_order_that_has_something_to_fetch(prefetch, tmp_path):
    assert lent(prefetch, tmp_path)


def test_none_is_lent_for_an_order_that_is_done(prefetch, tmp_path):
    was(prefetch, "new", "done")
    assert not lent(prefetch, tmp_path)


def test_one_is_lent_when_another_order_is_done_and_was_not_closed(prefetch, tmp_path):
    was(prefetch, "old", "done")
    assert lent(prefetch, tmp_path)
