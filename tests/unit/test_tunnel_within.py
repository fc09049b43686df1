"""Waiting with a limit: a cancellation always comes through, and what nobody waits for is undone."""

from __future__ import annotations

import asyncio

import pytest

from ds4agent.tunnel.within import within


async def later(seconds: float, value: int = 1) -> int:
    await asyncio.sleep(seconds)
    return value


def test_the_result_and_the_error_come_through() -> None:
    async def fail() -> None:
        raise OSError("no")

    async def body() -> None:
        assert await within(5, later(0)) == 1
        assert await within(None, later(0)) == 1
        with pytest.raises(OSError, match="no"):
            await within(5, fail())

    asyncio.run(body())


def test_work_that_is_late_is_ended() -> None:
    async def body() -> None:
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        with pytest.raises(asyncio.TimeoutError):
            await within(0.01, work())
        await asyncio.wait_for(ended.wait(), 5)

    asyncio.run(body())


def test_a_cancellation_that_comes_with_the_result_is_not_lost() -> None:
    """asyncio.wait_for of Python 3.11 fails this: the task goes on as if nobody had told it to end."""

    async def body() -> list[int]:
        undone: list[int] = []
        ready = asyncio.Event()

        async def work() -> int:
            await ready.wait()
            return 7

        async def for_ever() -> None:
            while True:
                await within(60, work(), undo=undone.append)

        task = asyncio.ensure_future(for_ever())
        for _ in range(5):
            await asyncio.sleep(0)
        ready.set()
        for _ in range(2):  # the result is there, the task has not seen it yet
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()
        return undone

    assert asyncio.run(body()) in ([7], [])
