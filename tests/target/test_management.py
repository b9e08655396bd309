"""Tests of target.management: each function, over one session and over two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from iser.pdu import (
    FINAL,
    IMMEDIATE,
    RESERVED_TAG,
    NopIn,
    NopOut,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
)
from iser.pdu.const import TaskManagementFunction as Function
from iser.pdu.const import TaskManagementResponseCode as Code
from iser.scsi.cdb import read_blocks, write_blocks
from tests.target.peer import Peer, config, disk, logged_in, served, serving, settled, until

SLOW = {"on": "write", "action": "delay", "count": 1000, "seconds": 0.2}
TWO = bytes(5) + b"\2"


def manage(peer: Peer, function: int, tag: int = RESERVED_TAG, *, lun: int = 0, ref: int = 0, opcode: int = 2) -> int:
    """Send a function; returns its task tag."""
    return peer.send(
        TaskManagementRequest(opcode=opcode, flags=FINAL | function, lun=lun, referenced_task_tag=tag, ref_cmd_sn=ref)
    )


async def answered(peer: Peer, itt: int) -> int:
    answer = await peer.expect(TaskManagementResponse)
    assert answer.itt == itt
    return answer.response


def slow_write(peer: Peer, lun: int = 0) -> int:
    return peer.send_command(write_blocks(0, 1), write=bytes(512), lun=lun << 48)


@asynccontextmanager
async def two_sessions(luns: int = 1) -> AsyncIterator[tuple[Peer, Peer]]:
    slow = config(target=disk(SLOW, luns=luns))
    async with serving(slow) as (_, port), served(port) as one, served(port, isid=TWO) as two:
        for peer in (one, two):
            for lun in range(1, luns):
                assert await attention(peer, lun) is not None
        yield one, two


async def attention(peer: Peer, lun: int = 0) -> tuple[int, int] | None:
    """ASC and ASCQ of the unit attention that waits, if one does."""
    response, sense = await peer.command(bytes(6), lun=lun << 48)
    return (sense[12], sense[13]) if response.status == 2 and sense[2] == 6 else None


@pytest.mark.parametrize("opcode", [0x02, 0x02 | IMMEDIATE])
async def test_abort_task_waits_for_the_backend_and_the_task_has_no_other_answer(opcode: int) -> None:
    async with logged_in(config(target=disk(SLOW))) as peer:
        task = slow_write(peer)
        assert await answered(peer, manage(peer, Function.ABORT_TASK, task, opcode=opcode)) == Code.FUNCTION_COMPLETE
        peer.datamover.deallocate_task_resources(task)
        await peer.silence()
        response, _ = await peer.command(read_blocks(0, 1), read=bytearray(512))
        assert response.status == 0


async def test_abort_task_during_an_rdma_read_ends_with_it() -> None:
    """The memory that the data moves into is in use until the RDMA Read is over."""
    async with logged_in(config(target=disk(size="8M"))) as peer:
        tasks = [peer.send_command(write_blocks(n * 2048, 2048), write=bytes(1 << 20)) for n in range(4)]
        functions = [manage(peer, Function.ABORT_TASK, task, opcode=0x42) for task in tasks]
        answers: dict[int, int] = {}
        responses = set()
        while len(answers) < 4:
            bhs = (await peer.receive()).bhs
            if isinstance(bhs, TaskManagementResponse):
                answers[bhs.itt] = bhs.response
                peer.datamover.deallocate_task_resources(tasks[functions.index(bhs.itt)])
            else:
                assert isinstance(bhs, ScsiResponse)
                responses.add(bhs.itt)
        for task, function in zip(tasks, functions, strict=True):
            assert answers[function] == (Code.TASK_DOES_NOT_EXIST if task in responses else Code.FUNCTION_COMPLETE)
        itt = peer.send(NopOut())
        assert (await peer.expect(NopIn)).itt == itt


async def test_a_task_that_is_over_or_never_was_does_not_exist() -> None:
    async with logged_in() as peer:
        response, _ = await peer.command(bytes(6))
        sn = peer.cmd_sn
        for tag in (response.itt, 0x1234):
            function = manage(peer, Function.ABORT_TASK, tag, ref=sn - 1)
            assert await answered(peer, function) == Code.TASK_DOES_NOT_EXIST
        assert await answered(peer, manage(peer, Function.ABORT_TASK)) == Code.FUNCTION_REJECTED


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (Function.TASK_REASSIGN, Code.REASSIGNMENT_NOT_SUPPORTED),
        (Function.CLEAR_ACA, Code.FUNCTION_NOT_SUPPORTED),
        (0, Code.FUNCTION_NOT_SUPPORTED),
        (99, Code.FUNCTION_NOT_SUPPORTED),
    ],
)
async def test_functions_that_are_not_there(function: int, code: int) -> None:
    async with logged_in() as peer:
        assert await answered(peer, manage(peer, function, 5)) == code


@pytest.mark.parametrize(
    "function", [Function.ABORT_TASK, Function.ABORT_TASK_SET, Function.CLEAR_TASK_SET, Function.LOGICAL_UNIT_RESET]
)
async def test_a_function_on_a_unit_that_is_not_there(function: int) -> None:
    async with logged_in() as peer:
        assert await answered(peer, manage(peer, function, 5, lun=7 << 48)) == Code.LUN_DOES_NOT_EXIST


async def test_abort_task_set_hits_our_own_tasks_on_that_unit_only() -> None:
    async with two_sessions(luns=2) as (one, two):
        mine, other_unit, theirs = slow_write(one), slow_write(one, 1), slow_write(two)
        await settled()
        function = manage(one, Function.ABORT_TASK_SET)
        kinds = {(await one.receive()).bhs.itt for _ in range(2)}
        assert kinds == {other_unit, function}
        one.datamover.deallocate_task_resources(mine)
        assert (await two.expect(ScsiResponse)).itt == theirs
        assert await attention(two) is None


async def test_clear_task_set_hits_all_and_tells_those_who_lost_a_task() -> None:
    async with two_sessions() as (one, two):
        mine, theirs = slow_write(one), slow_write(two)
        await settled()
        assert await answered(one, manage(one, Function.CLEAR_TASK_SET)) == Code.FUNCTION_COMPLETE
        one.datamover.deallocate_task_resources(mine)
        two.datamover.deallocate_task_resources(theirs)
        assert await attention(two) == (0x2F, 0x00)
        assert await attention(two) is None
        assert await attention(one) is None


async def test_clear_task_set_tells_nobody_who_lost_nothing() -> None:
    async with two_sessions() as (one, two):
        assert await answered(one, manage(one, Function.CLEAR_TASK_SET)) == Code.FUNCTION_COMPLETE
        assert await attention(two) is None


async def test_a_unit_reset_hits_all_and_tells_all() -> None:
    async with two_sessions(luns=2) as (one, two):
        mine, theirs, other_unit = slow_write(one), slow_write(two), slow_write(two, 1)
        await settled()
        function = manage(one, Function.LOGICAL_UNIT_RESET)
        assert await answered(one, function) == Code.FUNCTION_COMPLETE
        one.datamover.deallocate_task_resources(mine)
        two.datamover.deallocate_task_resources(theirs)
        assert (await two.expect(ScsiResponse)).itt == other_unit
        assert await attention(two) == (0x29, 0x03)
        assert await attention(two, 1) is None
        assert await attention(one) == (0x29, 0x03)


async def test_a_unit_reset_waits_for_tasks_that_are_being_aborted_already() -> None:
    async with logged_in(config(target=disk(SLOW))) as peer:
        task = slow_write(peer)
        await settled()
        functions = [manage(peer, Function.ABORT_TASK, task), manage(peer, Function.LOGICAL_UNIT_RESET)]
        await peer.silence(0.02)
        assert [(await peer.expect(TaskManagementResponse)).itt for _ in functions] == functions
        peer.datamover.deallocate_task_resources(task)


async def test_a_warm_reset_hits_every_unit_and_keeps_the_sessions() -> None:
    async with two_sessions(luns=2) as (one, two):
        tasks = [slow_write(two), slow_write(two, 1)]
        await settled()
        assert await answered(one, manage(one, Function.TARGET_WARM_RESET)) == Code.FUNCTION_COMPLETE
        for task in tasks:
            two.datamover.deallocate_task_resources(task)
        for lun in (0, 1):
            assert await attention(two, lun) == (0x29, 0x03)


async def test_a_cold_reset_answers_and_ends_every_session() -> None:
    async with serving() as (server, port), served(port) as one, served(port, isid=TWO) as two:
        assert await answered(one, manage(one, Function.TARGET_COLD_RESET)) == Code.FUNCTION_COMPLETE
        for peer in (one, two):
            assert isinstance(await peer.over(), EOFError)
        await until(lambda: server.sessions == 0)
        assert server.sessions == 0


def reserve_out(action: int, kind: int = 0) -> bytes:
    """PERSISTENT RESERVE OUT with its 24 bytes of parameters."""
    return bytes((0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0))


async def test_preempt_and_abort_ends_the_tasks_of_who_was_preempted() -> None:
    async with two_sessions() as (one, two):
        for peer, key in ((one, 1), (two, 2)):
            response, _ = await peer.command(reserve_out(0), write=bytes(8) + key.to_bytes(8, "big") + bytes(8))
            assert response.status == 0
        theirs = slow_write(two)
        await settled()
        keys = (1).to_bytes(8, "big") + (2).to_bytes(8, "big") + bytes(8)
        response, _ = await one.command(reserve_out(5, 3), write=keys)
        assert response.status == 0
        two.datamover.deallocate_task_resources(theirs)
        assert await attention(two) == (0x2A, 0x05)  # and no answer to the write came before
        assert await attention(two) is None
