"""Threads that wait for a store: they work side by side, tell what became of it, and outlive whoever waits."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest

from target.backends.crew import Crew

SLOW = 0.1


class Freed:
    """Something whose end can be seen."""


async def end(crew: Crew) -> None:
    await asyncio.to_thread(crew.shutdown)
    assert not any(thread.is_alive() for thread in crew.threads)


async def test_a_result_and_an_error_are_the_callers() -> None:
    crew = Crew(2, "test")
    assert await crew.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await crew.run(divmod, 7, 0)
    assert await crew.run(threading.get_ident) != threading.get_ident()
    await end(crew)


async def test_threads_come_as_they_are_needed_and_no_more() -> None:
    crew = Crew(3, "test")
    for _ in range(5):
        await crew.run(int)
    assert len(crew.threads) == 1
    start = time.monotonic()
    await asyncio.gather(*(crew.run(time.sleep, SLOW) for _ in range(6)))
    assert len(crew.threads) == 3
    assert SLOW * 2 <= time.monotonic() - start < SLOW * 5
    await end(crew)


async def test_many_jobs_at_once_all_end() -> None:
    crew = Crew(8, "test")
    for _ in range(20):
        assert await asyncio.gather(*(crew.run(abs, -number) for number in range(100))) == list(range(100))
    await end(crew)


async def test_the_loop_turns_meanwhile() -> None:
    crew = Crew(1, "test")
    job = asyncio.create_task(crew.run(time.sleep, SLOW))
    turns = 0
    while not job.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns >= 5
    await end(crew)


@pytest.mark.parametrize("fails", [False, True])
async def test_work_outlives_a_cancelled_caller_who_waits_for_it(fails: bool) -> None:
    ended = []

    def work() -> None:
        time.sleep(SLOW)
        ended.append(True)
        if fails:
            raise OSError

    crew = Crew(1, "test")
    job = asyncio.create_task(crew.run(work))
    for _ in range(3):
        await asyncio.sleep(0.01)
        job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert ended
    await end(crew)


async def test_who_is_cancelled_when_it_is_over_waits_for_nothing() -> None:
    crew = Crew(1, "test")
    job = asyncio.create_task(crew.run(int))
    await asyncio.sleep(0)
    time.sleep(SLOW)  # noqa: ASYNC251 - the thread has ended, and the loop does not know
    asyncio.get_running_loop().call_soon(job.cancel)
    with pytest.raises(asyncio.CancelledError):
        await job
    await end(crew)


async def test_what_a_job_used_is_let_go() -> None:
    crew = Crew(1, "test")
    thing = Freed()
    seen = weakref.ref(thing)
    await crew.run(id, thing)
    del thing
    gc.collect()
    assert seen() is None
    await end(crew)


async def test_shutdown_waits_for_what_is_under_way() -> None:
    crew = Crew(2, "test")
    job = asyncio.create_task(crew.run(time.sleep, SLOW))
    await asyncio.sleep(0)
    await end(crew)
    await job


def test_a_loop_that_ends_first_harms_nobody() -> None:
    crew = Crew(1, "test")
    gate = threading.Event()
    waiting: set[asyncio.Task[bool]] = set()

    async def leave() -> None:
        waiting.add(asyncio.create_task(crew.run(gate.wait)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    task = loop.create_task(leave())
    loop.run_forever()
    assert task.done()
    loop.close()
    gate.set()
    crew.shutdown()
