from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from initiator import commands
from initiator.establish import Link
from initiator.requests import MAX_IMMEDIATE
from initiator.session import Session
from initiator.task import ScsiResult
from iser.errors import CommandAborted, CommandError, CommandTimeout, ConnectionLost, ResourceError, UsageError
from iser.login import Wishes
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    FINAL,
    RESPONSE_OVERFLOW,
    RESPONSE_UNDERFLOW,
    ExtendedCdb,
    NopIn,
    NopOut,
    Reject,
    ScsiCommand,
    ScsiResponse,
    TaskManagementFunction,
    TaskManagementRequest,
    TaskManagementResponse,
    encode_bhs,
)
from iser.sg import SgList
from tests.initiator.puppet import Puppet, session_with_puppet

LUN = 5 << 48
CDB = bytes(range(6))


def listed(*buffers: bytes | bytearray) -> SgList:
    return SgList.of(buffers, writable=isinstance(buffers[0], bytearray))


def started(work: Coroutine[Any, Any, ScsiResult]) -> asyncio.Task[ScsiResult]:
    return asyncio.create_task(work)


async def no_live_key(link: Link) -> None:
    """No STag is left, at the latest when the loop has turned a few times."""
    for _ in range(20):
        if not link.datamover.live_keys:
            break
        await asyncio.sleep(0.005)
    assert link.datamover.live_keys == 0
    assert link.planner
    assert link.planner.in_use == 0


async def test_a_read_moves_bytes_into_the_callers_memory() -> None:
    async with session_with_puppet() as (link, puppet):
        memory = bytearray(10), bytearray(20)
        task = started(link.session.execute(LUN, CDB, listed(*memory)))
        command, data = await puppet.receive(ScsiCommand)
        assert (command.lun, command.edtl, command.cdb) == (LUN, 30, CDB.ljust(16, b"\0"))
        assert command.flags == FINAL | COMMAND_READ | 1
        assert data == b""
        puppet.datamover.put_data(command.itt, [memoryview(bytes(range(30)))], 0, 0, notify=False)
        puppet.respond(command.itt)
        assert await task == ScsiResult(0, b"", 0, False)
        assert b"".join(memory) == bytes(range(30))
        await no_live_key(link)


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("length", [1, 512, 8192, 8193])
async def test_a_write_is_immediate_in_whole_or_not_at_all(immediate: bool, length: int) -> None:
    async with session_with_puppet(immediate_data=immediate) as (link, puppet):
        content = bytes(i * 7 & 0xFF for i in range(length))
        task = started(link.session.execute(0, CDB, None, listed(content)))
        command, data = await puppet.receive(ScsiCommand)
        assert (command.edtl, command.flags) == (length, FINAL | COMMAND_WRITE | 1)
        if immediate and length <= 8192:
            assert data == content
            assert link.datamover.live_keys == 0
        else:
            assert data == b""
            sink = bytearray(length)
            puppet.datamover.get_data(command.itt, [memoryview(sink)], 0, 0)
            await puppet.receive(ScsiResponse)
            assert sink == content
        puppet.respond(command.itt)
        await task
        await no_live_key(link)


async def test_the_targets_limits_rule_immediate_data() -> None:
    async with session_with_puppet(wishes=Wishes(immediate_data=False)) as (link, puppet):
        task = started(link.session.execute(0, CDB, None, listed(b"x")))
        command, data = await puppet.receive(ScsiCommand)
        assert data == b""
        puppet.respond(command.itt)
        await task
    async with session_with_puppet(wishes=Wishes(first_burst_length=512)) as (link, puppet):
        task = started(link.session.execute(0, CDB, None, listed(bytes(513))))
        command, data = await puppet.receive(ScsiCommand)
        assert data == b""
        puppet.respond(command.itt)
        await task


async def test_status_sense_and_residuals_come_back() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB, listed(bytearray(100))))
        command, _ = await puppet.receive(ScsiCommand)
        puppet.respond(command.itt, b"\0\x03abc", status=2, flags=FINAL | RESPONSE_UNDERFLOW, residual=60)
        assert await task == ScsiResult(2, b"abc", 60, False)
        task = started(link.session.execute(0, CDB, listed(bytearray(100))))
        command, _ = await puppet.receive(ScsiCommand)
        puppet.respond(command.itt, flags=FINAL | RESPONSE_OVERFLOW, residual=7)
        assert await task == ScsiResult(0, b"", 7, True)
        await no_live_key(link)


async def test_sense_that_lies_about_its_length_is_what_there_is() -> None:
    async with session_with_puppet() as (link, puppet):
        for data, sense in ((b"\xff\xffab", b"ab"), (b"\0", b""), (b"\0\x01ab", b"a")):
            task = started(link.session.execute(0, CDB))
            command, _ = await puppet.receive(ScsiCommand)
            puppet.respond(command.itt, data, status=2)
            assert (await task).sense == sense


async def test_a_service_failure_is_an_error() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        puppet.respond(command.itt, response=1)
        with pytest.raises(CommandError, match="service response 0x01"):
            await task


async def test_long_cdbs_travel_in_an_ahs_without_immediate_data() -> None:
    async with session_with_puppet() as (link, puppet):
        cdb = bytes(range(32))
        task = started(link.session.execute(0, cdb, None, listed(b"abcd")))
        pdu = await puppet.inbox.get()
        assert isinstance(pdu.bhs, ScsiCommand)
        assert (pdu.bhs.cdb, pdu.ahs, pdu.data) == (cdb[:16], (ExtendedCdb(cdb[16:]),), b"")
        puppet.respond(pdu.bhs.itt)
        await task
        with pytest.raises(UsageError, match="CDB of 261 bytes"):
            await link.session.execute(0, bytes(261))


async def test_both_directions_at_once_are_refused() -> None:
    async with session_with_puppet() as (link, puppet):
        with pytest.raises(UsageError, match="not both"):
            await link.session.execute(0, CDB, listed(bytearray(1)), listed(b"x"))
        assert puppet.inbox.empty()


async def test_a_list_that_cannot_be_registered_costs_no_number() -> None:
    async with session_with_puppet(no_bounce=True, strategy="frwr") as (link, puppet):
        first = link.session
        with pytest.raises(ResourceError, match="no_bounce"):
            await first.execute(0, CDB, listed(bytearray(10), bytearray(10)))
        for _ in range(2):
            task = started(first.execute(0, CDB))
            command, _ = await puppet.receive(ScsiCommand)
            puppet.respond(command.itt)
            await task
        assert command.cmd_sn == 2


# The window


async def test_the_window_of_the_target_and_the_queue_depth_both_count() -> None:
    for window, depth, sent in ((4, 32, 4), (32, 4, 4), (1, 1, 1)):
        async with session_with_puppet(window, queue_depth=depth) as (link, puppet):
            tasks = [started(link.session.execute(n << 48, CDB)) for n in range(10)]
            order = [await puppet.receive(ScsiCommand) for _ in range(sent)]
            await asyncio.sleep(0.02)
            assert puppet.inbox.empty()
            for n in range(10):
                puppet.respond(order[n][0].itt)
                if len(order) < 10:
                    order.append(await puppet.receive(ScsiCommand))
            await asyncio.gather(*tasks)
            # First come, first served, and numbered in that order.
            assert [command.lun >> 48 for command, _ in order] == list(range(10))
            assert [command.cmd_sn for command, _ in order] == list(range(1, 11))


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    async with session_with_puppet(1) as (link, puppet):
        tasks = [started(link.session.execute(n << 48, CDB)) for n in range(3)]
        first, _ = await puppet.receive(ScsiCommand)
        puppet.respond(first.itt)
        await tasks[0]
        tasks.append(started(link.session.execute(3 << 48, CDB)))
        for n in (1, 2, 3):
            command, _ = await puppet.receive(ScsiCommand)
            assert command.lun >> 48 == n
            puppet.respond(command.itt)
        await asyncio.gather(*tasks)


async def test_numbers_wrap_around() -> None:
    async with session_with_puppet(4) as (link, puppet):
        session = link.session
        session._cmd_sn = 0xFFFFFFFE
        session._max_cmd_sn = 1
        puppet.max_cmd_sn = 1
        tasks = [started(session.execute(0, CDB)) for _ in range(6)]
        seen = []
        for _ in range(6):
            command, _ = await puppet.receive(ScsiCommand)
            seen.append(command.cmd_sn)
            puppet.respond(command.itt)
        await asyncio.gather(*tasks)
        assert seen == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 2, 3]


async def test_an_old_max_cmd_sn_does_not_close_the_window() -> None:
    async with session_with_puppet(4) as (link, puppet):
        task = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        puppet.max_cmd_sn -= 100
        puppet.respond(command.itt)
        await task
        task = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        assert command.exp_stat_sn == puppet.stat_sn
        puppet.respond(command.itt)
        await task


async def test_the_slot_of_one_who_gave_up_waiting_is_not_lost() -> None:
    async with session_with_puppet(1) as (link, puppet):
        first = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        waiting = started(link.session.execute(1 << 48, CDB))
        last = started(link.session.execute(2 << 48, CDB))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        puppet.respond(command.itt)
        command, _ = await puppet.receive(ScsiCommand)
        assert command.lun == 2 << 48
        puppet.respond(command.itt)
        await asyncio.gather(first, last)


# Giving up


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


async def ping_pong(session: Session, puppet: Puppet) -> None:
    """The session still works."""
    task = started(session.execute(0, CDB))
    command, _ = await puppet.receive(ScsiCommand)
    puppet.respond(command.itt)
    await task


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
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
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
        await asyncio.sleep(0.02)
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
        times = (0.15, 0.05, 0.1)
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
        await asyncio.sleep(0.01)
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
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionLost):
            await link.session.execute(0, CDB)


# What the target does wrong


async def test_a_rejected_command_fails_and_frees_its_stag() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB, listed(bytearray(8))))
        command, _ = await puppet.receive(ScsiCommand)
        puppet.send(Reject(reason=9), encode_bhs(command))
        with pytest.raises(CommandError, match="rejected our ScsiCommand with reason INVALID PDU FIELD"):
            await task
        await no_live_key(link)
        await ping_pong(link.session, puppet)


async def test_a_rejected_command_leaves_no_gap_for_the_target_to_wait_for() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        puppet.exp_cmd_sn = command.cmd_sn  # a rejected command is not counted
        puppet.send(Reject(reason=9), encode_bhs(command))
        with pytest.raises(CommandError, match="rejected our ScsiCommand"):
            await task
        ping, _ = await puppet.receive(NopOut)
        assert (ping.opcode, ping.cmd_sn) == (0, command.cmd_sn)
        puppet.exp_cmd_sn = (command.cmd_sn + 1) & 0xFFFFFFFF
        puppet.send(NopIn(itt=ping.itt))
        task = started(link.session.execute(0, CDB))
        following, _ = await puppet.receive(ScsiCommand)
        assert following.cmd_sn == puppet.exp_cmd_sn - 1
        puppet.respond(following.itt)
        assert (await task).status == 0


async def test_a_response_to_a_task_that_never_was_ends_the_session() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB))
        await puppet.receive(ScsiCommand)
        puppet.respond(0x777)
        with pytest.raises(ConnectionLost, match="task 0x777, which does not exist"):
            await task


async def test_a_second_response_ends_the_session() -> None:
    async with session_with_puppet() as (link, puppet):
        task = started(link.session.execute(0, CDB))
        other = started(link.session.execute(0, CDB))
        command, _ = await puppet.receive(ScsiCommand)
        puppet.respond(command.itt)
        puppet.respond(command.itt)
        await task
        with pytest.raises(ConnectionLost, match="does not exist"):
            await other


async def test_a_lost_connection_fails_all_commands_sent_and_waiting() -> None:
    async with session_with_puppet(2) as (link, puppet):
        tasks = [started(link.session.execute(0, CDB, listed(bytearray(8)))) for _ in range(5)]
        await puppet.receive(ScsiCommand)
        puppet.datamover.abort(ConnectionLost("pulled the plug"))
        for task in tasks:
            with pytest.raises(ConnectionLost):
                await task
        await no_live_key(link)
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
