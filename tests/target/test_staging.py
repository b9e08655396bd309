"""Tests of target.staging."""

from __future__ import annotations

import asyncio

import pytest

from target.staging import StagingPool


def test_buffers_are_page_aligned_powers_of_two_and_reused() -> None:
    pool = StagingPool()
    first = pool.try_take(5000)
    assert first is not None
    assert len(first) == 8192
    pool.give(first)
    assert pool.try_take(8192) is first
    assert (pool.in_use, pool.high_water) == (8192, 8192)


def test_one_buffer_beyond_the_limit_is_given_when_nothing_else_is_out() -> None:
    pool = StagingPool(limit=4096)
    big = pool.try_take(1 << 20)
    assert big is not None
    assert pool.try_take(1) is None
    pool.give(big)
    assert pool.try_take(1) is not None


async def test_who_comes_late_waits_in_order() -> None:
    pool = StagingPool(limit=8192)
    held = [await pool.take(4096), await pool.take(4096)]
    order: list[str] = []

    async def want(name: str, length: int) -> None:
        memory = await pool.take(length)
        order.append(name)
        pool.give(memory)

    waiters = [asyncio.create_task(want("big", 8192)), asyncio.create_task(want("small", 4096))]
    await asyncio.sleep(0)
    pool.give(held.pop())
    await asyncio.sleep(0)
    assert order == []  # a small one does not overtake: the big one would starve
    pool.give(held.pop())
    await asyncio.gather(*waiters)
    assert order == ["big", "small"]
    assert pool.in_use == 0


async def test_a_cancelled_waiter_takes_nothing() -> None:
    pool = StagingPool(limit=4096)
    held = await pool.take(4096)
    waiting = asyncio.create_task(pool.take(4096))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    granted = asyncio.create_task(pool.take(4096))
    await asyncio.sleep(0)
    pool.give(held)
    granted.cancel()  # granted in this very turn: it must not be lost
    with pytest.raises(asyncio.CancelledError):
        await granted
    assert pool.in_use == 0


async def test_a_cancelled_waiter_holds_up_nobody_behind_it() -> None:
    pool = StagingPool(limit=8192)
    held = await pool.take(4096)
    big = asyncio.create_task(pool.take(8192))
    small = asyncio.create_task(pool.take(4096))
    await asyncio.sleep(0)
    big.cancel()
    pool.give(await asyncio.wait_for(small, 1))
    assert big.cancelled()
    pool.give(held)
    assert pool.in_use == 0
