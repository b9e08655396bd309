from __future__ import annotations

import asyncio
import logging

import pytest

from initiator.establish import send_targets
from initiator.requests import MAX_IMMEDIATE
from iser.errors import CommandError, CommandTimeout, ConnectionLost, TextError
from iser.login import TargetAddress, TargetRecord
from iser.pdu import (
    FINAL,
    IMMEDIATE,
    RESERVED_TAG,
    TEXT_CONTINUE,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Reject,
    TextRequest,
    TextResponse,
    encode_bhs,
)
from tests.initiator.puppet import TARGET, session_with_puppet
from tests.target.peer import settled


async def test_a_ping_comes_back() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.nop(b"hello"))
        request, data = await puppet.receive(NopOut)
        assert (data, request.ttt, request.opcode) == (b"hello", RESERVED_TAG, IMMEDIATE)
        assert request.itt != RESERVED_TAG
        puppet.send(NopIn(itt=request.itt), data)
        assert await task == b"hello"


async def test_immediate_requests_take_no_command_number() -> None:
    async with session_with_puppet() as (link, puppet):
        numbers = []
        for _ in range(3):
            task = asyncio.create_task(link.session.nop())
            request, _ = await puppet.receive(NopOut)
            numbers.append((request.cmd_sn, request.exp_stat_sn))
            puppet.send(NopIn(itt=request.itt))
            assert await task == b""
        first = numbers[0][1]
        assert numbers == [(1, first), (1, first + 1), (1, first + 2)]


async def test_a_ping_without_answer_times_out_and_its_late_answer_is_ignored() -> None:
    async with session_with_puppet() as (link, puppet):
        with pytest.raises(CommandTimeout, match="did not answer a ping in time"):
            await link.session.nop(timeout=0.05)
        request, _ = await puppet.receive(NopOut)
        puppet.send(NopIn(itt=request.itt))
        task = asyncio.create_task(link.session.nop())
        request, _ = await puppet.receive(NopOut)
        puppet.send(NopIn(itt=request.itt))
        await task


async def test_a_cancelled_ping_is_forgotten() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.nop())
        request, _ = await puppet.receive(NopOut)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        puppet.send(NopIn(itt=request.itt))
        await settled()
        assert link.session.ended is None


async def test_the_targets_ping_is_answered() -> None:
    async with session_with_puppet() as (link, puppet):
        puppet.send(NopIn(ttt=0x1234, lun=7 << 48), b"are you there", numbered=False)
        answer, data = await puppet.receive(NopOut)
        assert (answer.itt, answer.ttt, answer.lun, data) == (RESERVED_TAG, 0x1234, 7 << 48, b"are you there")
        assert answer.opcode == IMMEDIATE
        assert answer.exp_stat_sn == puppet.stat_sn  # a ping of the target's takes no StatSN
        puppet.send(NopIn(), numbered=False)  # tgt sends this every five seconds
        await settled()
        assert puppet.inbox.empty()
        assert link.session.ended is None


async def test_an_answer_of_the_wrong_kind_ends_the_session() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.nop())
        request, _ = await puppet.receive(NopOut)
        puppet.send(LogoutResponse(itt=request.itt))
        with pytest.raises(ConnectionLost, match="answered a ping with a LogoutResponse"):
            await task


async def test_an_answer_to_nothing_ends_the_session() -> None:
    async with session_with_puppet() as (link, puppet):
        puppet.send(NopIn(itt=0x55))
        await asyncio.wait_for(puppet.ended.wait(), 5)
        assert "task 0x55, which does not exist" in str(link.session.ended)


async def test_a_rejected_request_fails() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.nop())
        request, _ = await puppet.receive(NopOut)
        puppet.send(Reject(reason=5), encode_bhs(request))
        with pytest.raises(CommandError, match="our NopOut with reason COMMAND NOT SUPPORTED"):
            await task


@pytest.mark.parametrize("header", [b"", bytes(47), b"\x3e" + bytes(47), encode_bhs(NopOut(itt=0x99))])
async def test_a_reject_of_nothing_is_logged(header: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with session_with_puppet() as (link, puppet):
        with caplog.at_level(logging.WARNING, "iser.initiator"):
            puppet.send(Reject(reason=0x7E), header)
            await settled()
        assert "the target rejected" in caplog.text
        assert link.session.ended is None


async def test_send_targets_in_several_answers() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(send_targets(link.session, 5))
        first, data = await puppet.receive(TextRequest)
        assert (data, first.flags, first.ttt) == (b"SendTargets=All\0", FINAL, RESERVED_TAG)
        text = f"TargetName={TARGET}\0TargetAddress=[::1]:3260,1\0".encode()
        puppet.send(TextResponse(flags=TEXT_CONTINUE, itt=first.itt, ttt=9), text[:20])
        second, data = await puppet.receive(TextRequest)
        assert (second.itt, second.ttt, data) == (first.itt, 9, b"")
        puppet.send(TextResponse(flags=FINAL, itt=first.itt), text[20:])
        assert await task == [TargetRecord(TARGET, (TargetAddress("::1", 3260, 1),))]


async def test_a_bad_text_answer_is_an_error() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(send_targets(link.session, 5))
        request, _ = await puppet.receive(TextRequest)
        puppet.send(TextResponse(itt=request.itt), b"nonsense\0")
        with pytest.raises(TextError, match="without '='"):
            await task
        task = asyncio.create_task(send_targets(link.session, 0.05))
        with pytest.raises(CommandTimeout):
            await task


async def test_requests_fail_when_the_connection_is_lost() -> None:
    async with session_with_puppet() as (link, puppet):
        task = asyncio.create_task(link.session.nop())
        await puppet.receive(NopOut)
        puppet.datamover.connection_terminate()
        with pytest.raises(ConnectionLost, match="the target closed the connection"):
            await task
        with pytest.raises(ConnectionLost):
            await link.session.nop()


async def test_more_requests_than_the_target_has_room_for_wait_in_turn() -> None:
    async with session_with_puppet() as (link, puppet):
        tasks = [asyncio.create_task(link.session.nop(bytes((n,)))) for n in range(2 * MAX_IMMEDIATE + 3)]
        sent = [await puppet.receive(NopOut) for _ in range(MAX_IMMEDIATE)]
        await settled()
        assert puppet.inbox.empty()
        tasks[MAX_IMMEDIATE].cancel()  # not sent yet, so it never is
        tasks[1].cancel()  # sent, so the next takes its place
        sent.append(await puppet.receive(NopOut))
        for n in range(len(tasks) - 1):
            request, data = sent[n]
            puppet.send(NopIn(itt=request.itt), data)
            if n != 1 and len(sent) < len(tasks) - 1:  # the place of the second was given away before
                sent.append(await puppet.receive(NopOut))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        given_up = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, asyncio.CancelledError)]
        assert given_up == [1, MAX_IMMEDIATE]
        assert [data[0] for _, data in sent] == [n for n in range(len(tasks)) if n != MAX_IMMEDIATE]


async def test_requests_that_wait_fail_with_the_connection() -> None:
    async with session_with_puppet() as (link, puppet):
        tasks = [asyncio.create_task(link.session.nop()) for _ in range(MAX_IMMEDIATE + 2)]
        await puppet.receive(NopOut)
        puppet.datamover.connection_terminate()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, ConnectionLost)


async def test_a_logout_does_not_wait_behind_other_requests() -> None:
    async with session_with_puppet() as (link, puppet):
        tasks = [asyncio.create_task(link.session.nop()) for _ in range(MAX_IMMEDIATE + 2)]
        for _ in range(MAX_IMMEDIATE):
            await puppet.receive(NopOut)
        close = asyncio.create_task(link.session.close())
        request, _ = await puppet.receive(LogoutRequest)
        puppet.send(LogoutResponse(itt=request.itt))
        await close
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, ConnectionLost)
