"""Macs by the words on their box."""

from __future__ import annotations

import pytest

from maclab.errors import EXIT_USAGE, LabError
from maclab.machine import products


@pytest.mark.parametrize(
    ("text", "model", "chip", "memory_gb", "storage_gb"),
    [
        ("Mac mini M4 24 GB", "Mac16,10", "Apple M4", 24, 1000),
        ("mac studio m3 ultra 512gb 4 TB", "Mac15,14", "Apple M3 Ultra", 512, 4000),
        ("Mac mini 64 GB", "Mac16,11", "Apple M4 Pro", 64, 1000),
        ("Mac Studio 128 GB 512 GB", "Mac16,9", "Apple M4 Max", 128, 512),
        ("Mac Studio 256 GB", "Mac15,14", "Apple M3 Ultra", 256, 1000),
    ],
)
def test_a_text_names_a_mac(text: str, model: str, chip: str, memory_gb: int, storage_gb: int) -> None:
    hardware = products.parse(text).hardware()
    assert hardware["model"] == model
    assert hardware["chip"] == chip
    assert (hardware["memory_gb"], hardware["storage_gb"]) == (memory_gb, storage_gb)


@pytest.mark.parametrize("text", ["", "toaster", "Mac mini", "Mac mini 24", "Mac Pro 64 GB"])
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LabError, match="as in 'Mac mini M4 24 GB'") as caught:
        products.parse(text)
    assert caught.value.exit_code == EXIT_USAGE


def test_a_product_that_was_never_sold_is_refused_with_a_near_one() -> None:
    with pytest.raises(LabError, match=r"no Mac mini with the chip M4 Max; did you mean M4"):
        products.parse("Mac mini M4 Max 64 GB")
