"""The life of a tunnel, on a clock that the test holds."""

from __future__ import annotations

import random

import pytest

from ds4agent.tunnel.machine import Machine, Order, Policy, State


def up(machine: Machine, now: float = 0.0) -> Machine:
    machine.start(now)
    machine.probe_answered(now)
    machine.healthy(now)
    assert machine.state is State.UP
    return machine


def test_starts_by_probing_and_connects_when_sshd_answers() -> None:
    machine = Machine()
    assert machine.start(0) == [Order.START_PROBING]
    assert machine.probe_answered(0.1) == [Order.STOP_PROBING, Order.START_SSH]
    assert machine.state is State.CONNECTING


def test_is_up_only_when_the_engine_answers_through_it() -> None:
    machine = Machine()
    machine.start(0)
    machine.probe_answered(0.1)
    machine.port_open(0.5)
    assert machine.state is State.UNHEALTHY
    machine.healthy(0.6)
    assert machine.state is State.UP
    assert machine.reason == ""


def test_a_tunnel_that_stands_says_nothing_of_the_tries_before_it() -> None:
    machine = Machine()
    machine.start(0)
    machine.probe_silent(0.1, "nothing listens on 192.0.2.1 port 22")
    machine.probe_answered(0.4)
    machine.port_open(0.8)
    assert machine.reason == "the engine has not answered yet"


def test_a_lived_tunnel_that_drops_is_retried_at_once() -> None:
    machine = up(Machine())
    assert machine.ssh_ended(100, "killed") == [Order.START_PROBING]
    assert machine.state is State.PROBING
    assert machine.drops == 1


def test_a_tunnel_that_dies_young_waits() -> None:
    machine = up(Machine())
    machine.ssh_ended(0.5, "killed")
    assert machine.state is State.WAITING
    assert machine.retry_at == 1.5


def test_a_connection_that_stood_clears_the_failures_whether_the_engine_answered_or_not() -> None:
    """An engine that is away for days: its tunnel may drop as often as it likes without being given up."""
    machine = Machine()
    machine.start(0)
    now = 0.0
    for _ in range(20):
        machine.probe_answered(now)
        machine.port_open(now + 0.5)
        now += 3600
        machine.unhealthy(now, "silent")
        machine.ssh_ended(now, "lost")
        assert (machine.state, machine.failures, machine.retry_at) == (State.WAITING, 1, now + 1)
        now += 1
        machine.tick(now)


def test_how_long_a_connection_stood_counts_from_its_login_not_from_the_engines_last_word() -> None:
    machine = up(Machine())
    machine.unhealthy(100, "silent")
    machine.unhealthy(100.5, "silent")
    machine.healthy(101)
    assert machine.ssh_ended(101.2, "lost") == [Order.START_PROBING]
    assert machine.state is State.PROBING


def test_backs_off_1_4_16_60_and_then_visibly_gives_up() -> None:
    machine = Machine(probeable=False)
    now, waits = 0.0, []
    machine.start(now)
    while machine.state is not State.GAVE_UP:
        machine.ssh_ended(now, "refused")
        if machine.state is State.WAITING:
            assert machine.retry_at is not None
            waits.append(machine.retry_at - now)
            now = machine.retry_at
            assert machine.tick(now) == [Order.START_SSH]
    assert waits == [1, 4, 16, 60]
    assert machine.reason == "refused"
    assert machine.tick(now + Policy().late_s - 1) == []


def test_what_may_heal_by_itself_is_tried_again_now_and_then_after_giving_up() -> None:
    machine = Machine(probeable=False)
    machine.start(0)
    while machine.state is not State.GAVE_UP:
        machine.ssh_ended(machine.since, "key refused")
        if machine.state is State.WAITING:
            machine.tick(machine.deadline() or 0)
    for _ in range(3):
        assert machine.retry_at == machine.since + Policy().late_s
        assert machine.tick(machine.retry_at) == [Order.START_SSH]
        machine.ssh_ended(machine.since + 1, "key refused")
        assert machine.state is State.GAVE_UP
    machine.tick(machine.retry_at or 0)
    machine.healthy(machine.since + 1)
    assert (machine.state, machine.failures) == (State.UP, 0)


def test_resumes_at_once_when_a_silent_host_answers_in_the_middle_of_a_wait() -> None:
    machine = up(Machine())
    machine.ssh_ended(10, "dead")
    machine.tick(13)
    machine.tick(14)
    machine.tick(18)
    assert machine.state is State.WAITING
    assert machine.retry_at == 34
    assert machine.probe_answered(20) == [Order.STOP_PROBING, Order.START_SSH]


def test_resumes_at_once_after_giving_up_when_the_host_returns() -> None:
    machine = up(Machine())
    machine.ssh_ended(10, "dead")
    while machine.state is not State.GAVE_UP:
        deadline = machine.deadline()
        assert deadline is not None
        machine.tick(deadline)
    assert machine.probe_answered(500) == [Order.STOP_PROBING, Order.START_SSH]
    assert machine.failures == 0


def test_an_sshd_that_answers_but_refuses_is_not_hammered() -> None:
    machine = Machine()
    machine.start(0)
    machine.probe_answered(0)
    machine.ssh_ended(0.2, "key refused")
    assert machine.state is State.WAITING
    assert machine.probe_answered(0.5) == []
    assert machine.probe_after_s(0.5) == Policy().probe_slow_s


def test_an_sshd_that_turns_us_away_is_logged_in_to_at_the_next_turn_and_not_asked_before() -> None:
    machine = Machine()
    machine.start(0)
    assert machine.turned_away(0.1, "turns us away") == [Order.STOP_PROBING]
    assert (machine.state, machine.retry_at, machine.reason) == (State.WAITING, 1.1, "turns us away")
    assert machine.tick(1.1) == [Order.START_SSH]
    # It still does, as ssh's end does not tell: asked once, and then the same again.
    assert machine.ssh_ended(1.2, "connection closed by the other side") == [Order.START_PROBING]
    assert machine.turned_away(1.3, "turns us away") == [Order.STOP_PROBING]
    assert machine.reason == "turns us away"
    assert machine.tick(5.2) == [Order.START_SSH]
    machine.healthy(5.5)
    assert machine.ssh_ended(100, "killed") == [Order.START_PROBING]


def test_a_host_that_returns_and_turns_us_away_is_tried_again_soon() -> None:
    machine = Machine(Policy(backoff_s=(1,), silence_s=1))
    machine.start(0)
    for now in (1.0, 2.0):
        machine.tick(now)
        machine.probe_silent(now, "no answer")
    assert machine.state is State.GAVE_UP and machine.retry_at is None
    assert machine.turned_away(50, "turns us away") == [Order.STOP_PROBING]
    assert (machine.state, machine.retry_at) == (State.WAITING, 51)


def test_a_refusing_host_that_went_away_and_came_back_is_tried_at_once() -> None:
    machine = Machine()
    machine.start(0)
    machine.probe_answered(0)
    machine.ssh_ended(0.2, "closed while booting")
    machine.probe_silent(0.4, "no answer")
    assert machine.probe_answered(0.6) == [Order.STOP_PROBING, Order.START_SSH]


def test_a_wrong_host_key_ends_the_trying_immediately() -> None:
    machine = Machine()
    machine.start(0)
    machine.probe_answered(0)
    assert machine.ssh_ended(0.2, "host key changed", permanent=True) == []
    assert machine.state is State.GAVE_UP
    assert machine.permanent


def test_two_bad_answers_make_it_unhealthy_and_one_good_makes_it_up() -> None:
    machine = up(Machine())
    machine.unhealthy(5, "silent")
    assert machine.state is State.UP
    assert machine.health_after_s() == Policy().recheck_s
    machine.unhealthy(5.5, "silent")
    assert machine.state is State.UNHEALTHY
    machine.healthy(6)
    assert machine.state is State.UP


@pytest.mark.parametrize("state", ["connecting", "up", "waiting", "gave up", "probing"])
def test_stop_cancels_whatever_was_planned(state: str) -> None:
    machine = Machine(probeable=state != "waiting")
    machine.start(0)
    if state in ("connecting", "up", "gave up"):
        machine.probe_answered(0)
    if state == "up":
        machine.healthy(0)
    if state == "waiting":
        machine.ssh_ended(0, "x")
    if state == "gave up":
        machine.ssh_ended(0, "x", permanent=True)
    assert machine.state.value == state
    machine.stop(1)
    assert machine.state is State.STOPPED
    assert machine.deadline() is None
    assert machine.tick(1000) == machine.probe_answered(1000) == machine.ssh_ended(1000, "x") == []
    assert machine.state is State.STOPPED


def test_a_person_asking_again_starts_a_new_round_from_gave_up() -> None:
    machine = Machine()
    machine.start(0)
    machine.probe_answered(0)
    machine.ssh_ended(0, "wrong key", permanent=True)
    assert Order.START_PROBING in machine.start(5)


def test_an_hour_of_random_drops_leaves_none_stuck() -> None:
    """Every way of failing, in any order: the machine always has a plan or listens for the host."""
    for seed in range(20):
        chance = random.Random(seed)
        machine = Machine()
        machine.start(0)
        now, running, probing = 0.0, False, True
        reachable_again_at = 0.0
        while now < 3600:
            orders = machine.tick(now)
            reachable = now >= reachable_again_at
            if not orders and probing:
                orders = machine.probe_answered(now) if reachable else machine.probe_silent(now, "silent")
            if not orders and running and not reachable:
                orders, running = machine.ssh_ended(now, "lost"), False
            if not orders and running and chance.random() < 0.01:
                orders, running = machine.ssh_ended(now, "killed"), False
            if not orders and running:
                machine.healthy(now)
            if chance.random() < 0.005:
                reachable_again_at = now + chance.choice([0.5, 5, 50, 200])
            for order in orders:
                running = {Order.START_SSH: True, Order.STOP_SSH: False}.get(order, running)
                probing = {Order.START_PROBING: True, Order.STOP_PROBING: False}.get(order, probing)
            assert running or probing or machine.deadline() is not None, (seed, now, machine)
            assert running == (machine.state in (State.CONNECTING, State.UP, State.UNHEALTHY))
            now += 0.25
        for _ in range(400):  # the host stays: within 100 s everything has healed
            for order in machine.tick(now) or (machine.probe_answered(now) if probing else []):
                running = {Order.START_SSH: True, Order.STOP_SSH: False}.get(order, running)
                probing = {Order.START_PROBING: True, Order.STOP_PROBING: False}.get(order, probing)
            if running:
                machine.healthy(now)
            now += 0.25
        assert machine.state is State.UP, (seed, machine)
