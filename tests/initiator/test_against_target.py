"""The session against the real target: cancellations in any state, loss of the peer, and what is left after them."""

from __future__ import annotations

import asyncio
import mmap
import random
from collections.abc import Coroutine
from typing import Any

import pytest

import initiator
from initiator import Lun, Url
from initiator.loopback import target_process
from initiator.url import Portal
from iser.errors import CommandTimeout, ConnectionLost, ScsiError
from iser.scsi.cdb import read_blocks
from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.server import TargetServer
from tests.target.peer import TARGET, serving, until

BLOCK = 512


async def nothing_left(lun: Lun) -> None:
    await until(lambda: not lun.link.datamover.live_keys)
    assert lun.link.datamover.live_keys == 0
    assert lun.link.planner
    assert lun.link.planner.in_use == 0
    assert lun.session.outstanding == ()


@pytest.mark.parametrize("strategy", ["auto", "bounce"])
@pytest.mark.parametrize("slow", [False, True])
async def test_cancelling_at_random_harms_nobody_else(strategy: str, slow: bool) -> None:
    """Each task owns its blocks; what it wrote last and saw finished is what it must read."""
    randomness = random.Random(f"{strategy}{slow}")
    async with serving() as (server, port):
        if slow:
            slow_down(server, 0.004)
        url = Url(Portal("127.0.0.1", port), TARGET)
        async with await initiator.connect(url, strategy=strategy, queue_depth=8, immediate_data=False) as lun:

            async def victim(place: int) -> None:
                while True:
                    await lun.write(place, [bytes(100), randomness.randbytes(412)])
                    await lun.read_into(place, [bytearray(3), bytearray(509)])

            async def honest(place: int) -> None:
                for _ in range(15):
                    content = randomness.randbytes(2 * BLOCK)
                    await lun.write(place, [content[:77], content[77:]])
                    back = bytearray(1000), bytearray(24)
                    await lun.read_into(place, back)
                    assert b"".join(back) == content

            honest_tasks = [asyncio.create_task(honest(4 * n)) for n in range(6)]
            victims = [asyncio.create_task(victim(1000 + n)) for n in range(12)]
            for task in victims:
                await asyncio.sleep(randomness.random() / 100)
                task.cancel()
            outcomes = await asyncio.gather(*victims, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            await asyncio.gather(*honest_tasks)
            await nothing_left(lun)
            assert lun.session.ended is None


def slow_down(server: TargetServer, seconds: float) -> None:
    """Make each read and write of the target's memory take some time."""
    delays = [Fault(on, Action.DELAY, 1, 1_000_000, seconds) for on in (Operation.READ, Operation.WRITE)]
    for target in server._targets:
        for unit in target.device.luns.values():
            unit.backend = FaultFilter(unit.backend, delays)


async def test_timeouts_abort_at_a_slow_target() -> None:
    async with serving() as (server, port):
        slow_down(server, 0.8)
        url = Url(Portal("127.0.0.1", port), TARGET)
        async with await initiator.connect(url, timeout=0.3) as lun:
            with pytest.raises(CommandTimeout):
                await lun.read(0, 8)
            await nothing_left(lun)
            assert (await lun.execute(bytes(6))).status == 0


async def test_a_killed_target_ends_every_command() -> None:
    async with target_process("16M") as url:
        lun = await initiator.connect(url, strategy="indirect")

        async def work() -> None:
            while True:
                await lun.read_into(0, [bytearray(1000), bytearray((1 << 20) - 1000)])

        tasks = [asyncio.create_task(work()) for _ in range(16)]
        await asyncio.sleep(0.1)
    for outcome in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10):
        assert isinstance(outcome, ConnectionLost), outcome
    with pytest.raises(ConnectionLost):
        await lun.read(0, 1)
    await lun.close()
    assert lun.link.planner
    assert lun.link.planner.in_use == 0


async def test_many_sessions_come_and_go() -> None:
    async with serving() as (server, port):
        url = Url(Portal("127.0.0.1", port), TARGET)

        async def visit() -> None:
            for _ in range(5):
                async with await initiator.connect(url, queue_depth=4) as lun:
                    await lun.read(0, 1)

        await asyncio.gather(*(visit() for _ in range(8)))
        await until(lambda: not server.sessions)
        assert server.sessions == 0


@pytest.mark.parametrize("remote_invalidate", [True, False])
@pytest.mark.parametrize("strategy", ["page-list", "indirect", "bounce"])
async def test_memory_is_the_callers_again_on_return(strategy: str, remote_invalidate: bool) -> None:
    """A mapping can only be closed, and a bytearray only be resized, when nobody holds on to it."""
    async with serving() as (server, port):
        url = Url(Portal("127.0.0.1", port), TARGET)
        async with await initiator.connect(url, strategy=strategy, remote_invalidate=remote_invalidate) as lun:
            for length in (BLOCK, 64 << 10):
                memory: Any = mmap.mmap(-1, length)  # no ``Buffer`` to a checker before Python 3.12
                grows = bytearray(length)
                for buffer in (memory, grows):
                    await lun.write(0, buffer)
                    await lun.read_into(0, buffer)
                memory.close()
                grows.append(0)
            failing = bytearray(BLOCK)
            with pytest.raises(ScsiError):
                await lun.write(1 << 40, failing)
            failing.append(0)
            slow_down(server, 0.1)
            for length in (BLOCK, 64 << 10):
                for move in (lun.write, lun.read_into):
                    memory = mmap.mmap(-1, length)
                    await cancelled(move(0, memory))
                    memory.close()
            grows = bytearray(BLOCK)
            await cancelled(lun.execute(read_blocks(0, 1), data_in=grows))
            grows.append(0)


async def cancelled(work: Coroutine[Any, Any, Any]) -> None:
    """Start ``work``, and cancel it; as people write it, with the task in a variable."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
