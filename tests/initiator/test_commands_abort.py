"""Tests of initiator.commands: commands that are given up, and task management."""

from __future__ import annotations

import asyncio

import pytest

from initiator import commands
from initiator.requests import MAX_IMMEDIATE
from iser.errors import CommandAborted, CommandTimeout, ConnectionLost
from iser.pdu import (
    FINAL,
    ScsiCommand,
    TaskManagementFunction,
    TaskManagementRequest,
    TaskManagementResponse,
)
from tests.initiator.puppet import session_with_puppet
from tests.initiator.tasks import CDB, LUN, listed, no_live_key, ping_pong, started
from tests.target.peer import settled


@pytest.mark.parametrize("remote_invalidate", [True, False])
async def test_cancelling_aborts_the_command_and_leaves_no_stag(remote_invalidate: bool) -> None:
    async with session_with_puppet(remote_invalidate=remote_invalidate) as (link, puppet):
        memory = bytearray(b"." * 1000)
        task = started(link.session.execute(LUN, CDB, listed(memory)))
        command, _ = await puppet.receive(ScsiCommand)
        task.cancel()
        request, _ = await puppet.receive(TaskManagementRequest)
        assert request.flags == FINAL | TaskManagementFunction.ABORT_TASK
        assert (request.lun, request.referenced_task_tag) == (LUN, command.itt)
        assert request.ref_cmd_sn == command.cmd_sn
        assert request.opcode == 0x42
        assert not task.done()
        assert link.datamover.live_keys == 1  # the target may still use it
        puppet.datamover.put_data(command.itt, [memoryview(b"late")], 0, 0, notify=False)
        puppet.send(TaskManagementResponse(itt=request.itt))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert memory.startswith(b"late")
        assert link.session.outstanding == ()
        await no_live_key(link)
        await ping_pong(link.session, puppet)


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("strategy", ["frwr", "indirect", "bounce", "bounce_pool", "mr512", "dma_key"])
async def test_cancelling_under_every_strategy_gives_back_what_the_command_held(strategy: str, write: bool) -> None:
    """Those on their way, with the pools exhausted, and those that wait for them."""
    async with session_with_puppet(strategy=strategy, pool_size=2, immediate_data=False) as (link, puppet):
        memory = bytearray(b"." * 8192)
        data = (None, listed(memory)) if write else (listed(memory), None)
        tasks = [started(link.session.execute(LUN, CDB, *data)) for _ in range(4)]
        sent = 4 if strategy in ("bounce_pool", "dma_key") else 2
        for _ in range(sent):
            await puppet.receive(ScsiCommand)
        assert link.planner
        assert link.planner.in_use > 0
        for task in reversed(tasks):
            task.cancel()
        for _ in range(sent):
            await puppet.answer_management()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 4
        assert link.planner.in_use == 0
        assert memory == b"." * 8192  # nothing of a copy was brought back
        if sent == 2:
            await no_live_key(link)
        await ping_pong(link.session, puppet)


@pytest.mark.parametrize("strategy", ["frwr", "indirect", "bounce", "bounce_pool", "dma_key"])
async def test_a_connection_that_is_lost_gives_back_what_its_commands_held(strategy: str) -> None:
    async with session_with_puppet(strategy=strategy, immediate_data=False) as (link, puppet):
        memory = bytearray(b"." * 8192)
        data = (listed(memory), None), (None, listed(bytes(8192)))
        tasks = [started(link.session.execute(LUN, CDB, *each)) for each in data]
        for _ in tasks:
            await puppet.receive(ScsiCommand)
        puppet.datamover.abort(ConnectionLost("the test pulls the plug"))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 2
        assert link.planner
        assert link.planner.in_use == 0
        assert memory == b"." * 8192


async def test_a_response_that_crosses_the_abort_is_fine() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB, listed(bytearray(8))))
        command, _ = await puppet.receive(ScsiCommand)
        task.cancel()
        puppet.respond(command.itt)
        request = await puppet.answer_management(response=1)
        assert request.referenced_task_tag == command.itt
        with pytest.raises(asyncio.CancelledError):
            await task
        await no_live_key(link)
        await ping_pong(link.session, puppet)


async def test_memory_is_the_callers_before_the_abort_that_came_too_late_is_answered() -> None:
    async with session_with_puppet() as (link, puppet):
        memory = bytearray(8)
        task = started(link.session.execute(0, CDB, listed(memory)))
        command, _ = await puppet.receive(ScsiCommand)
        task.cancel()
        request, _ = await puppet.receive(TaskManagementRequest)
        puppet.respond(command.itt)
        with pytest.raises(asyncio.CancelledError):
            await task
        memory.append(0)  # a BufferError while anything refers to it
        puppet.send(TaskManagementResponse(response=1, itt=request.itt))
        await ping_pong(link.session, puppet)


async def test_a_response_after_the_abort_is_ignored() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        task.cancel()
        await puppet.answer_management()
        puppet.respond(command.itt)
        with pytest.raises(asyncio.CancelledError):
            await task
        await ping_pong(link.session, puppet)


async def test_a_second_cancellation_waits_for_the_memory_too() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB, listed(bytearray(8))))
        await puppet.receive(ScsiCommand)
        task.cancel()
        await settled()
        task.cancel()
        await settled()
        assert not task.done()
        await puppet.answer_management()
        with pytest.raises(asyncio.CancelledError):
            await task
        await no_live_key(link)


@pytest.mark.parametrize("answer", [None, 5])
async def test_a_target_that_does_not_abort_loses_the_connection(
    answer: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ABORT_TIMEOUT", 0.1)
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB, listed(bytearray(8))))
        other = started(link.session.execute(0, CDB))
        await puppet.receive(ScsiCommand)
        task.cancel()
        await puppet.receive(ScsiCommand)
        if answer is not None:
            await puppet.answer_management(answer)
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionLost, match="did not abort task"):
            await other
        await no_live_key(link)
        await asyncio.wait_for(puppet.ended.wait(), 5)


async def test_a_response_is_waited_for_when_the_target_cannot_abort() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB, listed(bytearray(8))))
        command, _ = await puppet.receive(ScsiCommand)
        task.cancel()
        await puppet.answer_management(255)
        await settled()
        assert not task.done()
        puppet.respond(command.itt)
        with pytest.raises(asyncio.CancelledError):
            await task
        await no_live_key(link)


async def test_a_timeout_aborts_and_says_so() -> None:
    async with session_with_puppet() as (link, puppet):
        start = asyncio.get_running_loop().time()
        task = started(link.session.execute(0, CDB, listed(bytearray(8)), timeout=0.1))
        slow = started(link.session.execute(1 << 48, CDB, timeout=20))
        await puppet.receive(ScsiCommand)
        command, _ = await puppet.receive(ScsiCommand)
        await puppet.answer_management()
        with pytest.raises(CommandTimeout, match="not answered in time"):
            await task
        assert 0.09 < asyncio.get_running_loop().time() - start < 2
        await no_live_key(link)
        puppet.respond(command.itt)
        await slow


async def test_deadlines_come_in_any_order() -> None:
    async with session_with_puppet() as (link, puppet):
        times = (0.6, 0.2, 0.4)
        tasks = [started(link.session.execute(0, CDB, timeout=seconds)) for seconds in times]
        tags = [(await puppet.receive(ScsiCommand))[0].itt for _ in times]
        aborted = [(await puppet.answer_management()).referenced_task_tag for _ in times]
        assert aborted == [tags[1], tags[2], tags[0]]
        for task in tasks:
            with pytest.raises(CommandTimeout):
                await task


async def test_a_command_can_time_out_while_it_waits_for_room() -> None:
    async with session_with_puppet(1) as (link, puppet):
        first = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        with pytest.raises(CommandTimeout, match="no room"):
            await link.session.execute(0, CDB, timeout=0.05)
        assert puppet.inbox.empty()
        puppet.respond(command.itt)
        await first
        await ping_pong(link.session, puppet)


async def test_cancelling_during_the_abort_of_a_timeout_is_not_lost() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB, timeout=0.02))
        await puppet.receive(ScsiCommand)
        request, _ = await puppet.receive(TaskManagementRequest)
        task.cancel()
        await settled()
        puppet.send(TaskManagementResponse(itt=request.itt))
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_all_commands_cancelled_at_once_are_aborted_a_few_at_a_time() -> None:
    async with session_with_puppet(64) as (link, puppet):
        tasks = [started(link.session.execute(0, CDB, listed(bytearray(8)))) for _ in range(80)]
        for _ in range(64):
            await puppet.receive(ScsiCommand)
        for task in tasks:
            task.cancel()
        for _ in range(64):
            request, _ = await puppet.receive(TaskManagementRequest)
            assert puppet.inbox.qsize() < MAX_IMMEDIATE
            puppet.max_cmd_sn += 1
            puppet.send(TaskManagementResponse(itt=request.itt))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        await no_live_key(link)
        await ping_pong(link.session, puppet)


# Task management


async def test_resets_end_the_commands_that_they_reach() -> None:
    async with session_with_puppet() as (link, puppet):
        session = link.session
        mine = started(session.execute(1 << 48, CDB, listed(bytearray(4))))
        other = started(session.execute(2 << 48, CDB))
        await puppet.receive(ScsiCommand)
        survivor, _ = await puppet.receive(ScsiCommand)
        reset = asyncio.create_task(session.lun_reset(1))
        request = await puppet.answer_management()
        assert (request.flags & 0x7F, request.lun) == (5, 1 << 48)
        assert await reset == 0
        with pytest.raises(CommandAborted, match="LOGICAL UNIT RESET"):
            await mine
        await no_live_key(link)
        puppet.respond(survivor.itt)
        await other


async def test_every_function_is_sent_as_asked() -> None:
    async with session_with_puppet() as (link, puppet):
        session = link.session
        for work, function, lun in (
            (session.abort_task(3, 0x1234), 1, 3 << 48),
            (session.abort_task_set(3), 2, 3 << 48),
            (session.target_warm_reset(), 6, 0),
            (session.target_cold_reset(), 7, 0),
        ):
            task = asyncio.create_task(work)
            request = await puppet.answer_management(5)
            assert (request.flags & 0x7F, request.lun) == (function, lun)
            assert await task == 5


async def test_aborting_by_tag() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        assert link.session.outstanding == (command.itt,)
        abort = asyncio.create_task(link.session.abort_task(0, command.itt))
        request = await puppet.answer_management()
        assert (request.referenced_task_tag, request.ref_cmd_sn) == (command.itt, command.cmd_sn)
        assert await abort == 0
        with pytest.raises(CommandAborted):
            await task


async def test_a_function_without_answer_drops_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "ABORT_TIMEOUT", 0.1)
    async with session_with_puppet() as (link, _):
        with pytest.raises(CommandTimeout, match="LOGICAL UNIT RESET"):
            await link.session.lun_reset(0)
        await settled()
        with pytest.raises(ConnectionLost):
            await link.session.execute(0, CDB)


async def test_a_connection_lost_during_an_abort_frees_the_memory() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB, listed(bytearray(8))))
        await puppet.receive(ScsiCommand)
        task.cancel()
        await puppet.receive(TaskManagementRequest)
        puppet.datamover.connection_terminate()
        with pytest.raises(asyncio.CancelledError):
            await task
        await no_live_key(link)
