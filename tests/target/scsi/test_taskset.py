"""Tests of target.scsi.taskset: the rules on their own, and commands of real sessions in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.login import Wishes
from iser.pdu import (
    COMMAND_WRITE,
    FINAL,
    R2T,
    RESERVED_TAG,
    DataOut,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
    encode,
)
from iser.pdu.const import TaskManagementFunction as Function
from iser.pdu.const import TaskManagementResponseCode as Code
from iser.scsi.cdb import inquiry, read_blocks, report_luns, request_sense, write_blocks
from target.backends.memory import MemoryBackend
from target.scsi import LogicalUnit
from target.scsi.taskset import ACA, HEAD_OF_QUEUE, ORDERED, SIMPLE, TaskSet
from target.server import TargetServer
from tests.target.peer import TARGET, Peer, config, served, serving, until
from tests.target.scsi.bench import unit
from tests.target.test_quick import Raw

TWO = bytes(5) + b"\2"
TEST_UNIT_READY = bytes(6)


class Fake:
    """A command that ends when the test says so, and sees to it that it does not begin before it may."""

    def __init__(self, commands: list[Fake], attribute: int) -> None:
        self.number = len(commands)
        self.commands = commands
        self.attribute = attribute
        commands.append(self)
        self.begun = self.ended = False
        self.waiters: list[Callable[[], None]] | None = None

    def begin(self) -> None:
        assert not self.begun
        assert not self.ended
        assert may_begin(self, self.commands)
        self.begun = True

    def end(self) -> None:
        self.ended = True
        waiters, self.waiters = self.waiters or [], None
        for waiter in waiters:
            waiter()


def may_begin(command: Fake, commands: list[Fake]) -> bool:
    """SAM-5's rules, from the whole history."""
    others = [other for other in commands if other is not command and not other.ended]
    if command.attribute == HEAD_OF_QUEUE:
        return True
    if any(other.attribute == HEAD_OF_QUEUE for other in others):
        return False
    older = [other for other in others if other.number < command.number]
    return not older if command.attribute == ORDERED else all(other.attribute <= SIMPLE for other in older)


def come(lu: LogicalUnit, commands: list[Fake], attribute: int) -> None:
    command = Fake(commands, attribute)
    if (lu.task_set is None and attribute <= SIMPLE) or TaskSet.of(lu).enter(command, attribute, command.begin):
        command.begin()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(-4, -1), st.integers(0, 30)), max_size=40))
def test_every_command_begins_as_soon_as_it_may_and_not_before(steps: list[int]) -> None:
    """A negative step is a command that comes, any other ends or aborts one."""

    async def scenario() -> None:
        lu = unit()
        commands: list[Fake] = []
        lu.running = lambda: [command for command in commands if command.begun and not command.ended]
        for step in steps:
            alive = [command for command in commands if not command.ended]
            if step < 0:
                come(lu, commands, -step - 1)
            elif alive:
                alive[step % len(alive)].end()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for command in commands:
                # One that has begun is not stopped by a head of queue that came after it.
                assert command.ended or command.begun or not may_begin(command, commands)
        while waiting := [command for command in commands if not command.ended]:
            next(command for command in waiting if command.begun).end()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert lu.task_set is None
        assert not lu.gated

    asyncio.run(scenario())


async def test_of_many_that_are_aborted_none_begins() -> None:
    lu = unit()
    commands: list[Fake] = []
    lu.running = lambda: [command for command in commands if command.begun and not command.ended]
    for attribute in (SIMPLE, ORDERED, SIMPLE, ORDERED):
        come(lu, commands, attribute)
    for command in commands:
        command.end()
    await asyncio.sleep(0)
    assert [command.begun for command in commands] == [True, False, False, False]
    assert lu.task_set is None


# Over the wire


def lu_of(server: TargetServer) -> LogicalUnit:
    return server.registry.targets[TARGET].device.luns[0]


class Gate(MemoryBackend):
    """Writes wait at the gate until it is opened; reads do not."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.gate = asyncio.Event()
        self.port = 0  # of the target that serves it

    def views(self, offset: int, length: int) -> None:  # type: ignore[override]  # it has none
        del offset, length

    def stored(self, offset: int, length: int) -> bytes:
        return bytes(super().views(offset, length)[0])

    async def writev(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        await self.gate.wait()
        await super().writev(offset, buffers, fua)


@asynccontextmanager
async def two_sessions(**tables: Any) -> AsyncIterator[tuple[Peer, Peer, Gate, LogicalUnit]]:
    """Two peers on one unit whose writes go on when the test opens the gate."""
    async with serving(config(**tables)) as (server, port):
        lu = lu_of(server)
        await lu.backend.close()
        lu.backend = gate = Gate()
        gate.port = port
        wishes = Wishes(initial_r2t=False, first_burst_length=4096)
        async with served(port, wishes) as one, served(port, wishes, isid=TWO) as two:
            yield one, two, gate, lu
            await until(lambda: lu.task_set is None)
            assert lu.task_set is None


async def answers(peer: Peer, count: int) -> list[int]:
    """The task tags of the next responses, all GOOD."""
    tags = []
    for _ in range(count):
        bhs = await peer.expect(ScsiResponse)
        assert bhs.status == 0
        tags.append(bhs.itt)
    return tags


async def manage(peer: Peer, function: int, tag: int = RESERVED_TAG) -> int:
    """Send a function; returns its response code."""
    itt = peer.send(TaskManagementRequest(flags=FINAL | function, referenced_task_tag=tag))
    answer = await peer.expect(TaskManagementResponse)
    assert answer.itt == itt
    return answer.response


async def test_simple_commands_overtake_each_other_and_leave_no_trace() -> None:
    async with two_sessions() as (one, _, gate, lu):
        slow = one.send_command(write_blocks(0, 1), write=bytes(512))
        quick = one.send_command(TEST_UNIT_READY, flags=SIMPLE)
        assert await answers(one, 1) == [quick]
        assert not lu.gated
        gate.gate.set()
        assert await answers(one, 1) == [slow]


async def test_an_ordered_command_waits_for_older_ones_and_younger_ones_for_it() -> None:
    async with two_sessions() as (one, _, gate, _):
        data = bytearray(512)
        tags = [
            one.send_command(write_blocks(0, 1), write=b"\1" * 512),
            one.send_command(write_blocks(0, 1), write=b"\2" * 512, flags=ORDERED),
            one.send_command(read_blocks(0, 1), read=data),
            one.send_command(TEST_UNIT_READY),
        ]
        await one.silence()
        gate.gate.set()
        assert await answers(one, 2) == tags[:2]
        assert sorted(await answers(one, 2)) == tags[2:]
        assert bytes(data) == b"\2" * 512


async def test_the_order_counts_over_all_sessions_and_a_head_of_queue_goes_first() -> None:
    async with two_sessions() as (one, two, gate, lu):
        slow = one.send_command(write_blocks(0, 1), write=bytes(512))
        await until(lambda: list(lu.running()))
        ordered = two.send_command(TEST_UNIT_READY, flags=ORDERED)
        await until(lambda: lu.gated)
        simple = one.send_command(TEST_UNIT_READY)
        head = two.send_command(TEST_UNIT_READY, flags=HEAD_OF_QUEUE)
        assert await answers(two, 1) == [head]
        gate.gate.set()
        assert await answers(two, 1) == [ordered]
        assert await answers(one, 2) == [slow, simple]


async def test_a_head_of_queue_that_runs_keeps_others_from_beginning() -> None:
    async with two_sessions() as (one, two, gate, lu):
        head = one.send_command(write_blocks(0, 1), write=b"\7" * 512, flags=HEAD_OF_QUEUE)
        await until(lambda: lu.gated)
        data = bytearray(512)
        simple = two.send_command(read_blocks(0, 1), read=data)
        await two.silence()
        gate.gate.set()
        assert await answers(one, 1) == [head]
        assert await answers(two, 1) == [simple]
        assert bytes(data) == b"\7" * 512


async def test_who_asks_what_is_there_is_answered_whatever_waits() -> None:
    async with two_sessions() as (one, two, gate, lu):
        tags = [one.send_command(write_blocks(0, 1), write=bytes(512), flags=flags) for flags in (0, ORDERED)]
        await until(lambda: lu.gated)
        page, luns = bytearray(96), bytearray(16)
        for command, buffer in ((inquiry(96), page), (report_luns(16), luns), (request_sense(), bytearray(18))):
            response, _ = await two.command(command, read=buffer)
            assert response.status == 0
        assert (bytes(page[8:15]), luns[3]) == (b"ISER-PY", 8)
        gate.gate.set()
        assert await answers(one, 2) == tags


async def test_a_command_that_waits_keeps_the_data_that_comes_with_it() -> None:
    limits = {"initial_r2t": False, "first_burst_length": 4096}
    data = bytes(range(256)) * 32
    async with two_sessions(limits=limits) as (peer, _, gate, _):
        slow = peer.send_command(write_blocks(100, 1), write=bytes(512))
        itt = peer.send_command(write_blocks(8, 16), write=data, immediate=1024, unsolicited=4096, flags=ORDERED)
        out = DataOut(flags=FINAL, itt=itt, ttt=RESERVED_TAG, buffer_offset=1024, data_segment_length=3072)
        peer.datamover.send_control(Pdu(out, data[1024:4096]))
        await peer.silence()
        gate.gate.set()
        assert await answers(peer, 2) == [slow, itt]
        stored = bytearray(8192)
        await peer.command(read_blocks(8, 16), read=stored)
        assert bytes(stored) == data


async def test_over_tcp_data_is_asked_for_when_a_command_begins() -> None:
    data = bytes(range(256)) * 2
    async with serving(config(portal={"p": {"listen": "iscsi://127.0.0.1:0"}})) as (server, port):
        lu = lu_of(server)
        await lu.backend.close()
        lu.backend = gate = Gate()
        raw = Raw(port)
        await raw.log_in()

        async def send(itt: int, cdb: bytes, flags: int, edtl: int, immediate: bytes = b"") -> None:
            bhs = ScsiCommand(flags=FINAL | flags, itt=itt, edtl=edtl, cmd_sn=raw.cmd_sn, cdb=cdb.ljust(16, b"\0"))
            raw.cmd_sn += 1
            await raw.send(encode(Pdu(bhs, immediate)))

        await send(1, TEST_UNIT_READY, 0, 0)
        assert (await raw.receive())[0].itt == 1
        await send(2, write_blocks(0, 1), COMMAND_WRITE, 512, bytes(512))
        await send(3, write_blocks(1, 1), COMMAND_WRITE | ORDERED, 512)
        await send(4, write_blocks(2, 1), COMMAND_WRITE | ORDERED, 512)
        await send(5, TEST_UNIT_READY, HEAD_OF_QUEUE, 0)
        assert (await raw.receive())[0].itt == 5
        await raw.send(encode(Pdu(TaskManagementRequest(0x42, FINAL | 1, referenced_task_tag=4, itt=6))))
        answer, _ = await raw.receive()
        assert (type(answer), answer.response) == (TaskManagementResponse, Code.FUNCTION_COMPLETE)
        gate.gate.set()
        assert (await raw.receive())[0].itt == 2
        asked, _ = await raw.receive()
        assert (type(asked), asked.itt) == (R2T, 3)
        await raw.send(encode(Pdu(DataOut(flags=FINAL, itt=3, ttt=asked.ttt), data)))
        assert (await raw.receive())[0].itt == 3
        assert gate.stored(512, 512) == data
        assert not any(gate.stored(1024, 512))
        raw.sock.close()


async def test_a_command_that_waits_can_be_aborted_and_what_waits_for_it_begins() -> None:
    async with two_sessions() as (one, _, gate, _):
        slow = one.send_command(write_blocks(0, 1), write=bytes(512))
        ordered = one.send_command(write_blocks(1, 1), write=b"\1" * 512, flags=ORDERED)
        simple = one.send_command(TEST_UNIT_READY)
        await one.silence()
        assert await manage(one, Function.ABORT_TASK, ordered) == Code.FUNCTION_COMPLETE
        one.datamover.deallocate_task_resources(ordered)
        assert await answers(one, 1) == [simple]
        gate.gate.set()
        assert await answers(one, 1) == [slow]
        assert not any(gate.stored(512, 512))


async def test_what_waits_when_the_task_set_is_cleared_never_begins() -> None:
    async with two_sessions() as (one, two, gate, _):
        tasks = [one.send_command(write_blocks(0, 1), write=bytes(512))]
        tasks += [one.send_command(write_blocks(1, 1), write=b"\1" * 512, flags=ORDERED) for _ in range(3)]
        await one.silence()
        asyncio.get_running_loop().call_later(0.05, gate.gate.set)  # for the write that the function has to wait for
        assert await manage(two, Function.CLEAR_TASK_SET) == Code.FUNCTION_COMPLETE
        for task in tasks:
            one.datamover.deallocate_task_resources(task)
        response, sense = await one.command(TEST_UNIT_READY, flags=ORDERED)
        assert (response.status, sense[12:14]) == (2, b"\x2f\0")  # cleared by another initiator
        assert not any(gate.stored(512, 512))


async def test_a_session_that_is_lost_takes_its_commands_out_of_the_order() -> None:
    async with two_sessions() as (one, two, gate, lu):
        two.send_command(write_blocks(0, 1), write=bytes(512))
        two.send_command(write_blocks(1, 1), write=b"\1" * 512, flags=ORDERED)
        await until(lambda: lu.gated)
        simple = one.send_command(TEST_UNIT_READY)
        await one.silence()
        await two.datamover.close()
        await one.silence()  # the lost one may still write
        gate.gate.set()
        assert await answers(one, 1) == [simple]
        assert not any(gate.stored(512, 512))


@pytest.mark.parametrize("isid", [bytes.fromhex("80cafe000001"), bytes(5) + b"\3"])
async def test_what_a_lost_session_still_writes_is_not_seen_after_what_comes_next(isid: bytes) -> None:
    """By the initiator that logs in again, or by another one that takes over."""
    async with two_sessions() as (one, _, gate, lu):
        one.send_command(write_blocks(0, 1), write=b"\1" * 512)
        await until(lambda: list(lu.running()))
        await one.datamover.close()
        peer = Peer()
        await peer.connect(gate.port)
        await peer.log_in(isid=isid)
        await until(lambda: lu.gated)
        again = [peer.send_command(TEST_UNIT_READY), peer.send_command(write_blocks(0, 1), write=b"\2" * 512)]
        await peer.silence()
        gate.gate.set()
        assert (await peer.expect(ScsiResponse)).itt == again[0]  # POWER ON
        assert await answers(peer, 1) == again[1:]
        assert gate.stored(0, 512) == b"\2" * 512
        await peer.datamover.close()


async def test_a_unit_attention_is_told_to_the_command_that_begins_first() -> None:
    """What waits has not begun, so it neither hears of a condition nor is refused by one."""
    async with two_sessions() as (one, two, gate, lu):
        slow = one.send_command(write_blocks(0, 1), write=bytes(512))
        await until(lambda: list(lu.running()))
        ordered = two.send_command(TEST_UNIT_READY, flags=ORDERED)
        await until(lambda: lu.gated)
        response, _ = await one.command(bytes((0x15, 0x10, 0, 0, 16, 0)), write=mode_control(), flags=HEAD_OF_QUEUE)
        assert response.status == 0
        gate.gate.set()
        answer = await two.receive()
        assert isinstance(answer.bhs, ScsiResponse)
        assert (answer.bhs.itt, answer.bhs.status, bytes(answer.data[14:16])) == (ordered, 2, b"\x2a\1")
        assert await answers(one, 1) == [slow]


def mode_control() -> bytes:
    """Parameters of MODE SELECT(6): the Control page with D_SENSE as it is."""
    return bytes(4) + bytes((0x0A, 10, 0, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0))


async def test_attributes_that_no_unit_has_are_refused() -> None:
    async with two_sessions() as (one, _, _, _):
        for attribute in range(ACA, 8):
            response, sense = await one.command(TEST_UNIT_READY, flags=attribute)
            assert (response.status, sense[2], sense[12:14]) == (2, 5, b"\x49\0")
        page = bytearray(64)
        await one.command(inquiry(64, 0x86), read=page)
        assert page[5] & 7 == 7  # SIMPLE, ORDERED and HEAD OF QUEUE are there, and it says so
