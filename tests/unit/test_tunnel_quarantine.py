"""Requests that were there when an engine ended, on a clock that the test holds."""

from __future__ import annotations

import pytest

from ds4agent.tunnel import heads, quarantine
from ds4agent.tunnel.quarantine import DEATHS, ENTRIES, ONCE_S, REFUSED_S, Quarantine


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> Quarantine:
    return Quarantine(clock)


def refused(table: Quarantine, fingerprint: str) -> float:
    suspect = table.known(fingerprint)
    return table.refused_s(suspect) if suspect else 0.0


def test_one_that_ended_two_engines_is_refused_for_a_while(table: Quarantine, clock: Clock) -> None:
    table.died("a", "tyo-01")
    assert refused(table, "a") == 0
    clock.now = 1
    table.died("a", "tyo-02")
    assert refused(table, "a") == REFUSED_S
    assert refused(table, "b") == 0
    clock.now = 1 + REFUSED_S
    assert table.known("a") is None
    assert not table


def test_one_without_another_mac_is_refused_shortly_then_for_long(table: Quarantine, clock: Clock) -> None:
    table.died("a", "sg-01", no_other=True)
    assert refused(table, "a") == ONCE_S
    clock.now = ONCE_S
    assert refused(table, "a") == 0
    table.died("a", "sg-01", no_other=True)
    assert refused(table, "a") == REFUSED_S


def test_two_of_the_same_that_were_there_together_count_once(table: Quarantine) -> None:
    table.died("a", "tyo-01")
    assert table.died("a", "tyo-01").deaths == 1 < DEATHS


def test_the_table_has_an_end(table: Quarantine) -> None:
    for number in range(ENTRIES * 3):
        table.died(str(number), "tyo-01")
    assert table.known("0") is None
    assert table.known(str(ENTRIES * 3 - 1)) is not None
    assert len(table._suspects) == ENTRIES


def test_a_fingerprint_is_of_method_path_and_body_however_the_body_came() -> None:
    def of(method: str, path: str, body: bytes, pieces: int = 1, most: int = 1 << 20) -> str:
        head = f"{method} {path} HTTP/1.1\r\nX: {pieces}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        asked = heads.asked(head)
        assert asked is not None
        size = len(body) // pieces or 1
        rest = [body[at : at + size] for at in range(0, len(body), size)]
        first = head + (rest.pop(0) if pieces > 1 else b"")
        return quarantine.fingerprint(asked, [first, *rest], most)

    one = of("POST", "/v1/messages", b"abcdef")
    assert one == of("POST", "/v1/messages", b"abcdef", pieces=3)
    assert one == of("POST", "/v1/messages?beta=true", b"abcdef")
    others = [
        of("PUT", "/v1/messages", b"abcdef"),
        of("POST", "/v1/responses", b"abcdef"),
        of("POST", "/v1/messages", b"abcdeg"),
    ]
    assert one not in others
    assert of("POST", "/x", b"abcdef", most=3) == of("POST", "/x", b"abcxyz", pieces=2, most=3)


def test_one_that_is_refused_for_good_is_listed_and_released_by_hand(clock: Clock) -> None:
    table = Quarantine(clock, refused_s=float("inf"))
    table.died("a", "tyo-01")
    table.died("b", "tyo-01")
    table.died("a", "tyo-02")
    clock.now = 1e9
    assert set(table.refused()) == {"a"} and table.refused()["a"].macs == {"tyo-01", "tyo-02"}
    assert table.release("a") and not table.release("a")
    assert not table.refused() and refused(table, "a") == 0
