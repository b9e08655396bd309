"""Range locks."""

from __future__ import annotations

import asyncio
import random

from target.backends.ranges import Hold, RangeLock


async def test_shared_holds_overlap_and_exclusive_ones_do_not() -> None:
    lock = RangeLock()
    one = await lock.acquire(0, 10, exclusive=False)
    two = await lock.acquire(5, 15, exclusive=False)
    alone = asyncio.create_task(lock.acquire(8, 9, exclusive=True))
    late = asyncio.create_task(lock.acquire(0, 10, exclusive=False))
    beside = await lock.acquire(20, 30, exclusive=True)
    await asyncio.sleep(0)
    lock.release(one)
    await asyncio.sleep(0)
    assert not alone.done()
    lock.release(two)
    await asyncio.sleep(0)
    assert alone.done()
    assert not late.done()  # it came after the exclusive one, which would starve otherwise
    lock.release(await alone)
    lock.release(await late)
    lock.release(beside)


async def test_who_gives_up_waiting_keeps_nobody_waiting() -> None:
    lock = RangeLock()
    held = await lock.acquire(0, 10, exclusive=False)
    gone = asyncio.create_task(lock.acquire(0, 10, exclusive=True))
    late = asyncio.create_task(lock.acquire(0, 10, exclusive=False))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert late.done()
    granted = asyncio.create_task(lock.acquire(0, 10, exclusive=True))
    await asyncio.sleep(0)
    lock.release(held)
    lock.release(await late)
    granted.cancel()  # granted, and cancelled before it could know
    await asyncio.gather(granted, return_exceptions=True)
    lock.release(await lock.acquire(0, 10, exclusive=True))


async def test_a_lock_that_nobody_wants_alone_is_shared() -> None:
    lock = RangeLock()
    assert lock.shared
    one = await lock.acquire(0, 10, exclusive=False)
    assert lock.shared
    alone = asyncio.create_task(lock.acquire(5, 9, exclusive=True))
    await asyncio.sleep(0)
    assert not lock.shared  # it waits, and nobody may overtake it
    lock.release(one)
    lock.release(await alone)
    assert lock.shared


async def test_never_two_that_exclude_each_other() -> None:
    lock, rng = RangeLock(), random.Random(5)
    held: set[Hold] = set()

    async def work() -> None:
        for _ in range(20):
            start = rng.randrange(50)
            hold = await lock.acquire(start, start + rng.randrange(1, 20), exclusive=rng.random() < 0.3)
            assert not any(map(hold.excludes, held))
            held.add(hold)
            await asyncio.sleep(0)
            held.remove(hold)
            lock.release(hold)

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(20))), 5)
