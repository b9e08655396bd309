"""Tests of initiator.commands: how commands are numbered, sent and answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from initiator.task import ScsiResult
from iser.errors import CommandError, ConnectionLost, ResourceError, UsageError
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
    encode_bhs,
)
from tests.initiator.puppet import session_with_puppet
from tests.initiator.tasks import CDB, LUN, listed, no_live_key, ping_pong, started
from tests.target.peer import settled


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


@pytest.mark.parametrize(
    "fields",
    [{}, {"status": 8}, {"residual": 5, "flags": FINAL | RESPONSE_UNDERFLOW}, {"status": 2, "data": b"\0\2ab"}],
)
@pytest.mark.parametrize("slot", [True, False])
async def test_the_short_way_and_the_long_one_come_to_the_same(fields: dict[str, Any], slot: bool) -> None:
    outcomes = []
    for quick in (True, False):
        async with session_with_puppet(window=2, queue_depth=4) as (link, puppet):
            session = link.session
            if not quick:
                session._quick = None
                link.datamover._quick_end = None  # type: ignore[union-attr]  # the puppet speaks iSER
            tasks = [started(session.execute(LUN, CDB, listed(bytearray(512)))) for _ in range(4)]
            commands = [(await puppet.receive(ScsiCommand))[0] for _ in range(2)]
            puppet.respond(commands[1].itt, slot=slot, **fields)
            result = await tasks[1]
            if slot:
                commands.append((await puppet.receive(ScsiCommand))[0])
            numbers = session._cmd_sn, session._max_cmd_sn, session._exp_stat_sn
            outcomes.append((result, commands, session.outstanding, numbers))
            session._terminate()
            await asyncio.gather(*tasks, return_exceptions=True)  # the others are lost with the connection
    assert outcomes[0] == outcomes[1]


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
            await settled()
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
