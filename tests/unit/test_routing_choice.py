"""Which Mac a request goes to, when it waits, and whose turn it is; on a clock that the test holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ds4agent.routing import choice
from ds4agent.routing.choice import Mac, Refusal
from ds4agent.routing.conversation import BYTES_PER_TOKEN, Conversation, Unit
from ds4agent.routing.fair import LOOKED_AT, FairQueue, Waiting
from ds4agent.routing.limits import DAY_S, Limits, Over, Usage
from ds4agent.routing.router import Router, Ticket

FLASH = "deepseek-v4-flash"


def mac(name: str, **changes: object) -> Mac:
    made = Mac(name, "tokyo", models=(FLASH,), context=100_000, prefill_tps=100, decode_tps=10)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def asked(*texts: str, tokens: int = 1000, model: str = FLASH) -> Conversation:
    kinds = ["user", "assistant"] * len(texts)
    long = [text.ljust(int(tokens * BYTES_PER_TOKEN), ".").encode() for text in texts]
    return Conversation(model, tuple(Unit(kind, text) for kind, text in zip(kinds, long, strict=False)), 100)


def ask(
    router: Router, conversation: Conversation, now: float = 0.0, key: str = "alice", **more: str
) -> Ticket:
    ticket = router.ask(key, conversation, now, **more)  # type: ignore[arg-type]
    assert isinstance(ticket, Ticket)
    return ticket


def sent_to(ticket: Ticket) -> str:
    return ticket.cost.mac.name if ticket.cost else ""


class TestAConversation:
    def test_stays_on_the_mac_that_holds_it(self) -> None:
        router = Router([mac("a"), mac("b"), mac("c")])
        for turns in (["hi"], ["hi", "yes", "more"], ["hi", "yes", "more", "ok", "go on"]):
            ticket = ask(router, asked(*turns))
            assert router.next(0.0) == [ticket]
            router.end(ticket)
            assert sent_to(ticket) == ""
        assert sorted(one.sent for one in router.macs.values()) == [0, 0, 3]

    def test_waits_for_its_mac_while_a_prefill_elsewhere_would_take_longer(self) -> None:
        router = Router([mac("a"), mac("b")])
        first = ask(router, asked("hi", tokens=10_000))
        router.next(0.0)
        home = sent_to(first)
        router.answers(first, 100.0)
        # What remains there are 10 s of an answer, and elsewhere 100 s of prefill.
        turn = ask(router, asked("hi", "yes", "more", tokens=10_000), 100.0)
        assert router.next(100.0) == [] and router.position(turn) == 1
        assert router.expected_s(turn, 100.0) == pytest.approx(10.0)
        router.end(first)
        assert router.next(101.0) == [turn] and sent_to(turn) == home

    def test_leaves_its_mac_when_the_queue_there_is_longer_than_a_prefill(self) -> None:
        router = Router([mac("a"), mac("b")])
        first = ask(router, asked("hi", tokens=100))
        router.next(0.0)
        home = router.macs[sent_to(first)]
        router.end(first)
        other = router.macs["b" if home.name == "a" else "a"]
        other.up = False
        long = ask(router, asked("other", tokens=50_000), key="bob")
        assert router.next(0.0) == [long]
        other.up = True
        turn = ask(router, asked("hi", "yes", "more", tokens=100))
        assert router.next(0.0) == [turn] and sent_to(turn) != home.name

    @pytest.mark.parametrize("state", [{"up": False}, {"draining": True}])
    def test_goes_elsewhere_when_its_mac_is_down_or_draining(self, state: dict[str, bool]) -> None:
        router = Router([mac("a"), mac("b")])
        first = ask(router, asked("hi"))
        router.next(0.0)
        home = sent_to(first)
        router.end(first)
        for key, value in state.items():
            setattr(router.macs[home], key, value)
        turn = ask(router, asked("hi", "yes", "more"))
        assert router.next(0.0) == [turn] and sent_to(turn) != home

    def test_goes_where_its_client_says_it_was_when_nothing_else_decides(self) -> None:
        router = Router([mac("a"), mac("b")])
        ticket = ask(router, asked("hi"), hint="session")
        router.next(0.0)
        home = sent_to(ticket)
        router.end(ticket)
        router.macs[home].sent = 9
        compacted = ask(router, asked("a summary"), hint="session")
        assert router.next(0.0) == [compacted] and sent_to(compacted) == home


class TestANewConversation:
    def test_goes_to_the_mac_with_the_least_to_do(self) -> None:
        router = Router([mac("a", sessions=2), mac("b", sessions=2), mac("c", sessions=2)])
        tickets = [ask(router, asked(str(number)), key=str(number)) for number in range(4)]
        router.next(0.0)
        assert sorted(map(sent_to, tickets[:3])) == ["a", "b", "c"]

    def test_is_shared_out_by_weight(self) -> None:
        router = Router([mac("a", weight=3.0), mac("b")])
        for number in range(40):
            ticket = ask(router, asked(str(number)))
            router.next(0.0)
            router.end(ticket)
        assert (router.macs["a"].sent, router.macs["b"].sent) == (30, 10)

    def test_prefers_the_faster_mac(self) -> None:
        router = Router([mac("a"), mac("b", prefill_tps=300)])
        ticket = ask(router, asked("hi"))
        router.next(0.0)
        assert sent_to(ticket) == "b"

    def test_stays_in_its_region_until_no_mac_there_can_take_it(self) -> None:
        router = Router([mac("a"), mac("b", region="seoul", tier=1, prefill_tps=900)])
        near = ask(router, asked("hi"))
        waits = ask(router, asked("ho"), key="bob")
        assert router.next(0.0) == [near] and sent_to(near) == "a"
        router.macs["a"].draining = True
        assert router.next(0.0) == [waits] and sent_to(waits) == "b"

    def test_is_kept_to_the_regions_of_its_key(self) -> None:
        router = Router([mac("a"), mac("b", region="seoul")])
        ticket = router.ask("alice", asked("hi"), 0.0, regions=("seoul",))
        assert router.next(0.0) == [ticket]
        assert isinstance(ticket, Ticket) and sent_to(ticket) == "b"

    def test_is_refused_with_the_models_that_there_are(self) -> None:
        router = Router([mac("a"), mac("b", models=("other",), region="seoul")])
        assert router.ask("alice", asked("hi", model="gpt"), 0.0) == Refusal("model", (FLASH, "other"))
        refusal = router.ask("alice", asked("hi", model="other"), 0.0, models=(FLASH,))
        assert refusal == Refusal("model", (FLASH,))

    def test_is_refused_when_it_cannot_fit_anywhere_and_else_goes_where_it_fits(self) -> None:
        router = Router([mac("a", context=1000), mac("b", context=20_000)])
        ticket = ask(router, asked("hi", tokens=9_000))
        assert router.next(0.0) == [ticket] and sent_to(ticket) == "b"
        refusal = router.ask("alice", asked("hi", tokens=90_000), 0.0)
        assert refusal == Refusal("context", (FLASH,), 20_000)

    def test_is_refused_at_once_when_no_mac_is_there(self) -> None:
        assert Router([mac("a", up=False)]).ask("alice", asked("hi"), 0.0) == Refusal("down", (FLASH,))
        assert Router([]).ask("alice", asked("hi"), 0.0) == Refusal("down")


class TestAMacThatFails:
    def test_its_request_goes_to_another_once_and_not_back(self) -> None:
        router = Router([mac("a"), mac("b")])
        ticket = ask(router, asked("hi"))
        router.next(0.0)
        first = sent_to(ticket)
        cost = router.again(ticket, 1.0)
        assert cost and cost.mac.name != first and not router.macs[first].work
        assert router.again(ticket, 2.0) is None
        router.end(ticket)
        assert not any(one.work for one in router.macs.values())

    def test_its_work_stays_counted_while_the_members_change(self) -> None:
        router = Router([mac("a"), mac("b")])
        ticket = ask(router, asked("hi"))
        router.next(0.0)
        router.members([mac("a", context=5), mac("b", context=5)])
        assert sum(len(one.work) for one in router.macs.values()) == 1
        ticket.cost = replace(ticket.cost, mac=router.macs[sent_to(ticket)]) if ticket.cost else None
        router.end(ticket)
        assert sum(len(one.work) for one in router.macs.values()) == 0


class TestWaiting:
    def test_time_is_what_is_left_to_prefill_and_to_answer(self) -> None:
        one = mac("a", sessions=2)
        assert one.wait_s(0.0) == 0
        choice.begin(one, 1, asked("x", tokens=1000), 0, 0.0)
        assert one.wait_s(4.0) == pytest.approx(6.0)
        choice.answers(one, 1, 10.0)
        assert one.wait_s(10.0) == 0.0  # the other session is free
        choice.begin(one, 2, asked("x", tokens=1000), 500, 10.0)
        assert one.wait_s(12.0) == pytest.approx(8.0)  # the first answer ends at 20
        choice.end(one, 1)
        assert one.wait_s(12.0) == pytest.approx(3.0)

    def test_a_client_that_left_is_out_of_the_queue(self) -> None:
        router = Router([mac("a")])
        first, second, third = (ask(router, asked(text), key=text) for text in "xyz")
        assert router.next(0.0) == [first]
        router.end(second)
        router.end(second)
        assert router.position(third) == 1 and len(router.queue) == 1
        router.end(first)
        assert router.next(0.0) == [third] and router.position(third) == 0


class TestTheFairQueue:
    @staticmethod
    def drained(queue: FairQueue[str], sessions: int = 1) -> list[str]:
        order = []
        while (taken := queue.take(lambda item: True, sessions, 0.0)) is not None:
            order.append(taken.item)
            queue.done(taken.key)
        return order

    def test_a_flood_delays_itself(self) -> None:
        queue: FairQueue[str] = FairQueue()
        for number in range(5):
            queue.put("flood", f"f{number}", 10, 0.0)
        queue.put("alice", "a", 10, 0.0)
        assert self.drained(queue)[:2] == ["f0", "a"]

    def test_sleep_earns_no_credit(self) -> None:
        queue: FairQueue[str] = FairQueue()
        for _ in range(50):
            queue.put("busy", "b", 10, 0.0)
        assert self.drained(queue) == ["b"] * 50
        for number in range(3):
            queue.put("busy", f"b{number}", 10, 0.0)
            queue.put("late", f"l{number}", 10, 0.0)
        order = self.drained(queue)
        assert order[0] == "l0" and order.index("b0") <= 2

    def test_shares_follow_weights_and_costs(self) -> None:
        queue: FairQueue[str] = FairQueue()
        for _ in range(40):
            queue.put("heavy", "h", 10, 0.0, weight=3)
            queue.put("light", "l", 10, 0.0)
        first = self.drained(queue)[:20]
        assert first.count("h") == 15
        for _ in range(40):
            queue.put("long", "L", 30, 0.0)
            queue.put("short", "s", 10, 0.0)
        assert self.drained(queue)[:20].count("s") == 15

    def test_one_that_cannot_go_does_not_hold_up_those_behind_it(self) -> None:
        queue: FairQueue[str] = FairQueue()
        queue.put("a", "no", 1, 0.0)
        queue.put("a", "yes", 1, 0.0)
        taken = queue.take(lambda item: item == "yes", 1, 0.0)
        assert taken and taken.item == "yes" and len(queue) == 1

    def test_a_round_looks_at_some_of_each_key_only(self) -> None:
        queue: FairQueue[str] = FairQueue()
        seen: list[str] = []
        for _ in range(50):
            queue.put("a", "x", 1, 0.0)
        assert queue.take(lambda item: bool(seen.append(item)), 1, 0.0) is None
        assert len(seen) == LOOKED_AT

    def test_a_key_leaves_sessions_to_others_that_asked_of_late(self) -> None:
        queue: FairQueue[str] = FairQueue()
        for _ in range(20):
            queue.put("flood", "f", 1, 0.0)

        def takes(now: float) -> list[Waiting[str]]:
            taken = []
            while (one := queue.take(lambda item: True, 8, now)) is not None:
                taken.append(one)
            for one in taken:
                queue.done(one.key)
            return taken

        assert len(takes(0.0)) == 8
        queue.put("alice", "a", 1, 0.0)
        for _ in range(20):
            queue.put("flood", "f", 1, 0.0)
        assert [one.key for one in takes(1.0)].count("flood") == 6
        assert [one.key for one in takes(1000.0)].count("flood") == 8

    def test_it_is_bounded(self) -> None:
        queue: FairQueue[str] = FairQueue(most=5, most_of_a_key=3)
        for _ in range(3):
            queue.put("a", "x", 1, 0.0)
        assert queue.is_full("a") and not queue.is_full("b")
        queue.put("b", "x", 1, 0.0)
        queue.put("c", "x", 1, 0.0)
        assert queue.is_full("d")


class TestLimits:
    def test_of_requests_at_once(self) -> None:
        usage, limits = Usage(), Limits(concurrent=2)
        assert usage.begin("a", limits, 0) is None and usage.begin("a", limits, 0) is None
        over = usage.begin("a", limits, 0)
        assert over and over.what == "concurrent" and over.retry_s > 0
        assert usage.begin("b", limits, 0) is None
        usage.end("a", 0, 0)
        assert usage.begin("a", limits, 0) is None

    def test_of_requests_per_minute(self) -> None:
        usage, limits = Usage(), Limits(requests_per_minute=60)
        assert [usage.begin("a", limits, 0) for _ in range(60)] == [None] * 60
        assert usage.begin("a", limits, 0) == Over("requests_per_minute", 60, 1.0)
        assert usage.begin("a", limits, 1.0) is None
        assert usage.begin("a", limits, 1.0) is not None
        # A clock that is set back gives nothing and takes nothing.
        assert usage.begin("a", limits, -5.0) is not None

    def test_of_tokens_per_day(self) -> None:
        usage, limits = Usage(), Limits(tokens_per_day=100)
        now = 3 * DAY_S + 100
        assert usage.begin("a", limits, now) is None
        usage.end("a", 150, now)
        assert usage.begin("a", limits, now) == Over("tokens_per_day", 100, DAY_S - 100)
        assert usage.begin("a", limits, 4 * DAY_S) is None

    def test_what_the_ledger_has_counts_after_a_restart(self) -> None:
        usage = Usage()
        usage.restore("a", 100, DAY_S)
        assert usage.begin("a", Limits(tokens_per_day=100), DAY_S) is not None

    def test_a_request_that_is_refused_costs_nothing(self) -> None:
        usage, limits = Usage(), Limits(concurrent=1, requests_per_minute=2)
        usage.begin("a", limits, 0)
        for _ in range(10):
            assert usage.begin("a", limits, 0) is not None
        usage.end("a", 0, 0)
        assert usage.begin("a", limits, 0) is None
