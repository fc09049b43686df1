"""The figures that the gateway promises, as ratios on a simulated clock: warm conversations, and fairness."""

from __future__ import annotations

import random

import pytest

from tests.support import routing_sim as sim

CONVERSATIONS, TURNS, MACS, SESSIONS = 24, 10, 4, 2
FIRST_TOKENS, TURN_TOKENS, THINK_S = 11_000, 1_000, 90.0


def prefilled(choose: str, seed: int) -> int:
    """Tokens that 24 conversations of 10 turns cost in prefill on 4 Macs."""
    world, rng = sim.World(MACS, SESSIONS, choose), random.Random(seed)

    def turn(name: str, number: int) -> None:
        # Each has a system text of its own, as a coding agent's first prompts differ from one to the next.
        system = sim.text("system", name, FIRST_TOKENS)
        asked = sim.Asked(name, sim.conversation(system, name, number, TURN_TOKENS), world.now, hint=name)

        def then() -> None:
            if number < TURNS:
                world.at(world.now + rng.expovariate(1 / THINK_S), lambda: turn(name, number + 1))

        world.ask(asked, then)

    for one in range(CONVERSATIONS):
        world.at(rng.uniform(0, 600), lambda name=f"c{one}": turn(name, 1))  # type: ignore[misc]
    world.run()
    assert len(world.asked) == CONVERSATIONS * TURNS and all(one.done for one in world.asked)
    return sum(one.prefilled for one in world.asked)


#: Each token of a conversation once.
IDEAL = CONVERSATIONS * sim.conversation(sim.text("system", "", FIRST_TOKENS), "", TURNS, TURN_TOKENS).tokens


@pytest.mark.parametrize("seed", range(5))
def test_conversations_stay_warm(seed: int) -> None:
    assert prefilled("router", seed) <= 1.05 * IDEAL


def test_round_robin_and_least_connections_prefill_several_times_as_much() -> None:
    ours = prefilled("router", 0)
    assert prefilled("round robin", 0) > 2 * ours
    assert prefilled("least", 0) > 2 * ours


def latency(with_flood: bool, seed: int) -> float:
    """Mean seconds until the answer is whole, of nine keys that ask now and then."""
    world, rng = sim.World(MACS, SESSIONS), random.Random(seed)
    system = sim.text("system", "", 500)

    def ask(key: str, name: str) -> None:
        world.ask(sim.Asked(key, sim.conversation(system, name, 1, 1_500), world.now))

    for key in range(9):
        for number, when in enumerate(sim.times(rng, 12, 240.0)):
            world.at(60 + when, lambda key=key, name=f"{key}-{number}": ask(f"k{key}", name))  # type: ignore[misc]
    for number in range(1200 if with_flood else 0):
        world.at(number * 1.5, lambda name=f"flood {number}": ask("flood", name))  # type: ignore[misc]
    world.run()
    found = sim.latencies(world.asked, lambda key: key != "flood")
    return sum(found) / len(found)


@pytest.mark.parametrize("seed", range(5))
def test_nine_keys_keep_nine_tenths_of_their_latency_while_one_floods(seed: int) -> None:
    alone, flooded = latency(False, seed), latency(True, seed)
    assert alone / flooded >= 0.9
