"""What a Mac's cache is taken to hold: the places that an engine can go on from, and no others."""

from __future__ import annotations

from ds4agent.routing.conversation import BYTES_PER_TOKEN, Unit
from ds4agent.routing.prefixes import CONTINUED_TOKENS, PLACES, Prefixes, chain, places


def unit(kind: str, name: str, tokens: int = 100) -> Unit:
    return Unit(kind, name.ljust(int(tokens * BYTES_PER_TOKEN), ".").encode())


SYSTEM = unit("system", "be short", 1000)
FIRST = [SYSTEM, unit("user", "hi")]
SECOND = [*FIRST, unit("assistant", "hello"), unit("user", "and?")]
OTHER = [SYSTEM, unit("user", "another"), unit("assistant", "yes"), unit("user", "go on")]


def warm(prefixes: Prefixes, mac: str, units: list[Unit]) -> int:
    return prefixes.warm_tokens(mac, chain(units))


def test_the_next_turn_finds_the_one_before() -> None:
    prefixes = Prefixes()
    prefixes.sent("tyo-01", FIRST, chain(FIRST))
    assert warm(prefixes, "tyo-01", SECOND) == chain(FIRST)[-1][1]
    assert warm(prefixes, "tyo-02", SECOND) == 0


def test_another_conversation_finds_the_system_text_before_the_first_user_turn() -> None:
    prefixes = Prefixes()
    prefixes.sent("tyo-01", SECOND, chain(SECOND))
    assert warm(prefixes, "tyo-01", OTHER) == SYSTEM.tokens


def test_a_common_beginning_between_two_places_is_of_no_use() -> None:
    prefixes = Prefixes()
    prefixes.sent("tyo-01", SECOND, chain(SECOND))
    edited = [*SECOND[:3], unit("user", "something else")]
    assert warm(prefixes, "tyo-01", edited) == SYSTEM.tokens


def test_a_long_prompt_has_places_on_its_way() -> None:
    turns = [unit("assistant" if n % 2 else "user", str(n), 3000) for n in range(24)]
    kept = places(turns, chain(turns))
    gaps = [after[1] - before[1] for before, after in zip(kept[:-1], kept[1:-1], strict=False)]
    assert kept[-1] == chain(turns)[-1]
    assert all(CONTINUED_TOKENS <= gap < CONTINUED_TOKENS + 3000 for gap in gaps) and len(gaps) >= 4


def test_another_model_or_another_kind_of_text_is_another_prompt() -> None:
    assert chain(FIRST, "flash")[-1][0] != chain(FIRST, "pro")[-1][0]
    assert chain([unit("user", "x")])[0][0] != chain([unit("tool", "x")])[0][0]
    # Neither can the end of one text be taken for the beginning of the next.
    assert (
        chain([Unit("user", b"ab"), Unit("user", b"c")])[-1]
        != chain([Unit("user", b"a"), Unit("user", b"bc")])[-1]
    )


def test_the_table_is_bounded_and_forgets_the_oldest() -> None:
    prefixes = Prefixes(entries=2 * PLACES, hints=3)
    for number in range(5000):
        one = [unit("user", str(number))]
        prefixes.sent(f"tyo-0{number % 2}", one, chain(one), hint=str(number))
    assert len(prefixes) == 2 * PLACES
    assert warm(prefixes, "tyo-01", [unit("user", "4999")]) and not warm(
        prefixes, "tyo-01", [unit("user", "1")]
    )
    assert prefixes.hinted("4999") == "tyo-01" and prefixes.hinted("4000") == ""


def test_a_busy_mac_does_not_make_the_others_forget() -> None:
    prefixes = Prefixes(entries=2 * PLACES)
    prefixes.sent("tyo-01", FIRST, chain(FIRST))
    for number in range(1000):
        one = [unit("user", str(number))]
        prefixes.sent("tyo-02", one, chain(one))
    assert warm(prefixes, "tyo-01", SECOND)


def test_one_prompt_of_very_many_turns_keeps_its_first_and_its_last_places() -> None:
    turns = [unit("user" if n % 2 == 0 else "assistant", str(n), CONTINUED_TOKENS) for n in range(400)]
    kept = places(turns, chain(turns))
    assert len(kept) == PLACES and kept[-1] == chain(turns)[-1] and kept[0] == chain(turns)[0]


def test_what_a_mac_lost_is_forgotten_with_its_hints() -> None:
    prefixes = Prefixes()
    prefixes.sent("tyo-01", FIRST, chain(FIRST), hint="a")
    prefixes.forget("tyo-01")
    assert warm(prefixes, "tyo-01", SECOND) == 0 and prefixes.hinted("a") == ""
