from __future__ import annotations

import asyncio
import time

import pytest

from initiator import session as module
from iser.errors import CommandAborted, ConnectionLost
from iser.pdu import (
    AsyncEvent,
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    Pdu,
    ScsiCommand,
    encode,
)
from iser.rdma.api import Send
from tests.initiator.puppet import session_with_puppet
from tests.target.peer import settled


async def test_closing_logs_out_and_disconnects() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.close())
        request, _ = await puppet.receive(LogoutRequest)
        assert (request.opcode, request.flags, request.cid) == (0x46, 0x80, 1)
        puppet.send(LogoutResponse(itt=request.itt))
        await task
        await asyncio.wait_for(puppet.ended.wait(), 5)
        await link.session.close()
        with pytest.raises(ConnectionLost, match="the session was closed"):
            await link.session.execute(0, bytes(6))


async def test_a_target_that_closes_first_after_the_logout_is_not_waited_for() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.close())
        request, _ = await puppet.receive(LogoutRequest)
        start = time.monotonic()
        puppet.send(LogoutResponse(itt=request.itt))
        puppet.datamover.connection_terminate()
        await task
        assert time.monotonic() - start < 1


async def test_a_logout_without_answer_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGOUT_TIMEOUT", 0.1)
    async with session_with_puppet() as (link, puppet):
        start = time.monotonic()
        await link.session.close()
        assert time.monotonic() - start < 2
        await asyncio.wait_for(puppet.ended.wait(), 5)


async def test_commands_on_their_way_fail_when_the_session_is_closed() -> None:
    async with session_with_puppet(1) as (link, puppet):
        tasks = [asyncio.create_task(link.session.execute(0, bytes(6))) for _ in range(2)]
        await puppet.receive(ScsiCommand)
        close = asyncio.create_task(link.session.close())
        request, _ = await puppet.receive(LogoutRequest)
        puppet.send(LogoutResponse(itt=request.itt))
        await close
        for task in tasks:
            with pytest.raises(ConnectionLost, match="the session was closed"):
                await task


async def test_a_target_that_asks_for_a_logout_gets_it_once_commands_are_over() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.execute(0, bytes(6)))
        command, _ = await puppet.receive(ScsiCommand)
        puppet.send(AsyncMessage(async_event=AsyncEvent.LOGOUT_REQUESTED, parameter3=5))
        await settled()
        with pytest.raises(ConnectionLost, match="asked to end the session"):
            await link.session.execute(0, bytes(6))
        assert puppet.inbox.empty()
        puppet.respond(command.itt)
        await task
        request, _ = await puppet.receive(LogoutRequest)
        puppet.send(LogoutResponse(itt=request.itt))
        await asyncio.wait_for(puppet.ended.wait(), 5)
        await link.session.close()


async def test_the_grace_before_a_requested_logout_is_bounded() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.execute(0, bytes(6)))
        await puppet.receive(ScsiCommand)
        puppet.send(AsyncMessage(async_event=AsyncEvent.LOGOUT_REQUESTED, parameter3=0))
        request, _ = await puppet.receive(LogoutRequest)
        puppet.send(LogoutResponse(itt=request.itt))
        with pytest.raises(ConnectionLost):
            await task


@pytest.mark.parametrize("event", [AsyncEvent.CONNECTION_DROPPED, AsyncEvent.ALL_CONNECTIONS_DROPPED])
async def test_a_target_that_says_it_drops_the_connection_is_believed(event: AsyncEvent) -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.execute(0, bytes(6)))
        await puppet.receive(ScsiCommand)
        puppet.send(AsyncMessage(async_event=event, parameter1=1, parameter2=7))
        with pytest.raises(ConnectionLost, match="log in again after 7 seconds"):
            await task


async def test_terminated_tasks_are_over() -> None:
    async with session_with_puppet() as (link, puppet):
        tasks = [asyncio.create_task(link.session.execute(lun << 48, bytes(6))) for lun in (1, 2)]
        await puppet.receive(ScsiCommand)
        command, _ = await puppet.receive(ScsiCommand)
        puppet.send(AsyncMessage(async_event=AsyncEvent.TASKS_TERMINATED, lun=1 << 48))
        with pytest.raises(CommandAborted, match="terminated all commands"):
            await tasks[0]
        puppet.respond(command.itt)
        await tasks[1]


@pytest.mark.parametrize("event", [AsyncEvent.SCSI_EVENT, AsyncEvent.VENDOR_SPECIFIC, 99])
async def test_other_events_change_nothing(event: int) -> None:
    async with session_with_puppet() as (link, puppet):
        puppet.send(AsyncMessage(async_event=event))
        await settled()
        assert link.session.ended is None


@pytest.mark.parametrize("bhs", [DataIn(), LoginResponse()])
async def test_pdus_that_have_no_place_here_end_the_session(bhs: DataIn | LoginResponse) -> None:
    async with session_with_puppet() as (link, puppet):
        puppet.datamover.send_control(Pdu(bhs))
        await asyncio.wait_for(puppet.ended.wait(), 5)
        assert f"sent a {type(bhs).__name__}" in str(link.session.ended)


@pytest.mark.parametrize(
    "message", [b"", b"\x10" + bytes(27), b"\x10" + bytes(30), b"\x10" + bytes(27) + b"\x3e" + bytes(47), b"\xff" * 76]
)
async def test_garbage_ends_the_session(message: bytes) -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.execute(0, bytes(6)))
        await puppet.receive(ScsiCommand)
        puppet.datamover._qp.post_send(Send(None, (memoryview(message),), 0, False))
        with pytest.raises(ConnectionLost):
            await task
        assert link.datamover.live_keys == 0


async def test_truncated_responses_end_the_session_at_every_length() -> None:
    message = b"\x10" + bytes(27) + encode(Pdu(LogoutResponse(itt=3)))
    for length in range(0, len(message), 5):
        async with session_with_puppet() as (link, puppet):
            puppet.datamover._qp.post_send(Send(None, (memoryview(message[:length]),), 0, False))
            await asyncio.wait_for(puppet.ended.wait(), 5)
            assert link.session.ended
