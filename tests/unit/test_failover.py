"""Which Mac gets the next request, on a clock that the test holds."""

from __future__ import annotations

from ds4agent.tunnel.choose import Chooser, Member


def chooser(spread: bool = False) -> Chooser:
    members = [Member("tyo-01"), Member("tyo-02"), Member("sg-01", tier=1)]
    made = Chooser(members, return_after_s=30, spread=spread)
    for member in members:
        made.see(member.name, well=True, draining=False, now=0)
    return made


def name(made: Chooser, now: float) -> str | None:
    member = made.choose(now)
    return member.name if member else None


def test_the_preferred_mac_has_all_the_work() -> None:
    made = chooser()
    assert [name(made, now) for now in (0, 1, 100)] == ["tyo-01"] * 3


def test_an_unhealthy_mac_loses_the_work_at_once() -> None:
    made = chooser()
    name(made, 0)
    made.see("tyo-01", well=False, draining=False, now=1)
    assert name(made, 1) == "tyo-02"


def test_a_draining_mac_gets_no_new_work() -> None:
    made = chooser()
    name(made, 0)
    made.see("tyo-01", well=True, draining=True, now=1)
    assert name(made, 1) == "tyo-02"


def test_the_next_region_serves_only_when_the_first_has_nobody() -> None:
    made = chooser()
    made.see("tyo-01", False, False, 1)
    made.see("tyo-02", True, True, 1)
    assert name(made, 1) == "sg-01"


def test_work_returns_only_after_the_preferred_mac_was_well_for_a_while() -> None:
    made = chooser()
    name(made, 0)
    made.see("tyo-01", False, False, 1)
    assert name(made, 1) == "tyo-02"
    made.see("tyo-01", True, False, 10)
    assert name(made, 39) == "tyo-02"
    assert name(made, 40) == "tyo-01"


def test_a_flapping_mac_does_not_get_the_work_back() -> None:
    made = chooser()
    name(made, 0)
    for now in range(1, 100, 2):
        made.see("tyo-01", False, False, now)
        assert name(made, now) == "tyo-02"
        made.see("tyo-01", True, False, now + 1)
        assert name(made, now + 1) == "tyo-02"


def test_a_short_drop_that_no_request_met_keeps_the_cache_in_use() -> None:
    made = chooser()
    name(made, 0)
    made.see("tyo-01", False, False, 1)
    made.see("tyo-01", True, False, 1.3)
    assert name(made, 2) == "tyo-01"


def test_hysteresis_never_holds_work_on_a_mac_that_is_gone() -> None:
    made = chooser()
    name(made, 0)
    made.see("tyo-01", False, False, 1)
    name(made, 1)
    made.see("tyo-01", True, False, 2)
    made.see("tyo-02", False, False, 3)
    assert name(made, 3) == "tyo-01"


def test_a_failed_request_moves_work_away_for_a_moment() -> None:
    made = chooser()
    name(made, 0)
    made.suspect("tyo-01", now=1, for_s=1)
    assert name(made, 1.5) == "tyo-02"
    assert name(made, 33) == "tyo-01"


def test_nobody_fit_is_said() -> None:
    made = chooser()
    for member in made.members:
        made.see(member.name, False, False, 1)
    assert name(made, 1) is None


def test_spread_takes_the_mac_with_the_fewest_requests_in_flight() -> None:
    made = chooser(spread=True)
    made.member("tyo-01").in_flight = 2
    made.member("tyo-02").in_flight = 1
    assert name(made, 0) == "tyo-02"
    made.see("tyo-02", True, True, 1)
    assert name(made, 1) == "tyo-01"


def test_a_start_is_not_decided_by_whose_tunnel_stood_first() -> None:
    made = Chooser([Member("tyo-01"), Member("tyo-02")], settle_until=3)
    made.see("tyo-02", True, False, 0.1)
    assert name(made, 0.2) is None
    made.see("tyo-01", True, False, 0.3)
    assert name(made, 0.3) == "tyo-01"


def test_a_start_does_not_wait_for_ever_for_the_preferred_mac() -> None:
    made = Chooser([Member("tyo-01"), Member("tyo-02")], settle_until=3)
    made.see("tyo-02", True, False, 0.1)
    assert name(made, 3) == "tyo-02"
