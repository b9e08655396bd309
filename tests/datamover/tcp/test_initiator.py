"""The initiator's end: commands, Data-In into the caller's buffers, answers to R2Ts, and what is refused."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from iser.datamover import TaskBuffers
from iser.datamover.tcp import TcpInitiator
from iser.datamover.tcp.endpoint import MAX_DROPPED
from iser.errors import ConnectionFailed, LocalProtocolError
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    DATA_IN_STATUS,
    FINAL,
    R2T,
    RESPONSE_UNDERFLOW,
    DataIn,
    DataOut,
    ExtendedCdb,
    NopIn,
    Pdu,
    ScsiCommand,
    ScsiResponse,
)
from iser.sg import SgList
from tests.datamover.tcp.ends import User, Wire, initiator

ITT = 7


def read(end: TcpInitiator, *buffers: bytearray, itt: int = ITT) -> None:
    sg = SgList.of(list(buffers), writable=True)
    bhs = ScsiCommand(flags=FINAL | COMMAND_READ, itt=itt, edtl=sg.length)
    end.send_command(Pdu(bhs), TaskBuffers(data_in=sg))


def write(end: TcpInitiator, *buffers: bytes, immediate: int = 0, unsolicited: int = 0) -> None:
    sg = SgList.of(list(buffers), writable=False)
    flags = COMMAND_WRITE if unsolicited else FINAL | COMMAND_WRITE
    bhs = ScsiCommand(flags=flags, itt=ITT, edtl=sg.length, data_segment_length=immediate)
    end.send_command(Pdu(bhs), TaskBuffers(None, sg, immediate, max(unsolicited, immediate)))


def data_in(data: bytes, at: int = 0, sn: int = 0, flags: int = 0, **more: Any) -> Pdu:
    return Pdu(DataIn(flags=flags, itt=ITT, data_sn=sn, buffer_offset=at)._replace(**more), data)


def r2t(length: int, at: int = 0, sn: int = 0, **more: Any) -> Pdu:
    bhs = R2T(itt=ITT, ttt=50 + sn, lun=1 << 48, stat_sn=300, r2t_sn=sn, buffer_offset=at)
    return Pdu(bhs._replace(desired_data_transfer_length=length, **more))


@pytest.mark.parametrize("size", [100, 30_000])
async def test_data_lands_in_the_callers_buffers(size: int) -> None:
    async with initiator(max_recv_data_segment_length_initiator=65536) as (end, user, wire):
        one, two = bytearray(size // 3), bytearray(2 * size - size // 3)
        read(end, one, two)
        assert (await wire.receive())[0].edtl == 2 * size
        data = bytes(index % 251 for index in range(2 * size))
        status = {"status": 0, "stat_sn": 5, "exp_cmd_sn": 6, "max_cmd_sn": 70}
        await wire.send(
            data_in(data[:size]), data_in(data[size:], size, 1, FINAL | DATA_IN_STATUS, **status), Pdu(NopIn())
        )
        (response, _), _ = await user.until("pdus", 2)
        assert one + two == data
        assert response == ScsiResponse(flags=FINAL, itt=ITT, stat_sn=5, exp_cmd_sn=6, max_cmd_sn=70)


async def test_a_status_with_the_data_brings_its_residual() -> None:
    async with initiator() as (end, user, wire):
        memory = bytearray(100)
        read(end, memory)
        flags = FINAL | DATA_IN_STATUS | RESPONSE_UNDERFLOW
        await wire.send(data_in(b"x" * 36, flags=flags, residual=64))
        ((response, _),) = await user.until("pdus")
        assert (response.flags, response.residual) == (FINAL | RESPONSE_UNDERFLOW, 64)
        assert memory == b"x" * 36 + bytes(64)


async def test_a_status_without_data_may_come_in_a_data_in() -> None:
    async with initiator() as (end, user, wire):
        read(end, bytearray(100))
        await wire.send(data_in(b"x" * 100), data_in(b"", 100, 1, FINAL | DATA_IN_STATUS))
        assert type((await user.until("pdus"))[0][0]) is ScsiResponse


async def test_a_status_other_than_good_may_come_with_less_data() -> None:
    async with initiator() as (end, user, wire):
        read(end, bytearray(100))
        await wire.send(data_in(b"x" * 50), Pdu(ScsiResponse(itt=ITT, status=2), b"\0\2ab"))
        assert (await user.until("pdus"))[0][1] == b"\0\2ab"


@pytest.mark.parametrize(
    ("pdus", "why"),
    [
        ([data_in(b"x" * 50, sn=1)], "out of place"),
        ([data_in(b"x" * 50, at=1)], "out of place"),
        ([data_in(b"x" * 101)], "out of place"),
        ([data_in(b"x" * 20_000)], "out of place"),
        ([data_in(b"x", itt=8)], "does not exist"),
        ([data_in(b"x" * 20_000, itt=8)], "does not exist"),
        ([data_in(b"", itt=8)], "does not exist"),
        ([data_in(b"x" * 50, flags=FINAL | DATA_IN_STATUS)], "done after 50 of 100"),
        ([data_in(b"x" * 50), Pdu(ScsiResponse(itt=ITT))], "done after 50 of 100"),
        ([Pdu(ScsiResponse(itt=ITT, flags=FINAL | RESPONSE_UNDERFLOW, residual=99))], "done after 0 of 100"),
        ([r2t(10)], "writes none"),
        ([r2t(10, itt=8)], "does not exist"),
    ],
)
async def test_a_target_that_breaks_the_protocol_in_a_read_is_left(pdus: list[Pdu], why: str) -> None:
    async with initiator(max_recv_data_segment_length_initiator=65536) as (end, user, wire):
        read(end, bytearray(100))
        await wire.send(*pdus)
        assert why in await user.refused()


async def answer(wire: Wire, count: int) -> list[tuple[DataOut, bytes]]:
    return [await wire.receive() for _ in range(count)]


async def test_r2ts_are_answered_in_pdus_of_the_targets_size() -> None:
    async with initiator(max_recv_data_segment_length_target=1024) as (end, _, wire):
        source = bytes(index % 249 for index in range(6000))
        write(end, source[:333], source[333:])
        await wire.receive()
        await wire.send(r2t(3000), r2t(3000, 3000, 1))
        pdus = await answer(wire, 6)
        assert b"".join(data for _, data in pdus) == source
        assert [(bhs.ttt, bhs.data_sn, bhs.flags) for bhs, _ in pdus] == [
            (ttt, sn, FINAL if sn == 2 else 0) for ttt in (50, 51) for sn in range(3)
        ]
        assert {(bhs.lun, bhs.exp_stat_sn, bhs.itt) for bhs, _ in pdus} == {(1 << 48, 300, ITT)}


@pytest.mark.parametrize("immediate", [5, 3000])
async def test_immediate_data_travels_with_the_command_and_the_rest_when_asked(immediate: int) -> None:
    async with initiator() as (end, _, wire):
        source = bytes(index % 249 for index in range(4000))
        write(end, source[:100], source[100:], immediate=immediate)
        command, data = await wire.receive()
        assert (command.data_segment_length, data) == (immediate, source[:immediate])
        await wire.send(r2t(4000 - immediate, immediate))
        assert (await wire.receive())[1] == source[immediate:]


async def test_unsolicited_data_is_the_callers_to_send() -> None:
    async with initiator() as (end, _, wire):
        write(end, bytes(100), b"rest", unsolicited=100)
        await wire.receive()
        end.send_control(Pdu(DataOut(flags=FINAL, itt=ITT), bytes(100)))
        assert len((await wire.receive())[1]) == 100
        await wire.send(r2t(4, 100))
        assert (await wire.receive())[1] == b"rest"


@pytest.mark.parametrize("bad", [r2t(10, sn=1), r2t(10, at=1), r2t(0), r2t(101), r2t(70_000), data_in(b"x")])
async def test_a_target_that_breaks_the_protocol_in_a_write_is_left(bad: Pdu) -> None:
    async with initiator() as (end, user, wire):
        write(end, bytes(100))
        await wire.send(bad)
        assert "out of place" in await user.refused() or "reads none" in str(user.ends[0])


@pytest.mark.parametrize("size", [100, 30_000])
async def test_data_for_a_task_given_up_does_not_touch_its_buffers(size: int) -> None:
    async with initiator(max_recv_data_segment_length_initiator=65536) as (end, user, wire):
        memory = bytearray(size)
        read(end, memory)
        end.deallocate_task_resources(ITT)
        await wire.send(data_in(b"x" * size, flags=FINAL | DATA_IN_STATUS), r2t(10), Pdu(NopIn()))
        pdus = await user.until("pdus", 2)
        assert [type(bhs) for bhs, _ in pdus] == [ScsiResponse, NopIn]  # whose task is unknown is not ours to judge
        assert memory == bytes(size)


async def test_a_write_given_up_is_not_answered_any_more() -> None:
    async with initiator() as (end, _, wire):
        write(end, bytes(100))
        await wire.receive()
        end.deallocate_task_resources(ITT)
        await wire.send(r2t(100))
        end.send_control(Pdu(DataOut()))
        assert (await wire.receive())[0] == DataOut()


async def test_tags_of_tasks_given_up_are_remembered_up_to_a_limit() -> None:
    async with initiator() as (end, user, wire):
        for itt in range(MAX_DROPPED + 1):
            read(end, bytearray(8), itt=itt)
            end.deallocate_task_resources(itt)
        await wire.send(data_in(bytes(8), itt=1), Pdu(NopIn()))
        await user.until("pdus")
        await wire.send(data_in(bytes(8), itt=0))
        assert "does not exist" in await user.refused()


async def test_a_tag_in_use_is_refused() -> None:
    async with initiator() as (end, _, _wire):
        read(end, bytearray(8))
        with pytest.raises(LocalProtocolError, match="still in use"):
            read(end, bytearray(8))


async def test_a_long_cdb_travels_in_an_ahs() -> None:
    async with initiator() as (end, _, wire):
        bhs = ScsiCommand(itt=ITT, total_ahs_length=2)
        end.send_command(Pdu(bhs, b"", (ExtendedCdb(b"abcd"),)), TaskBuffers())
        assert (await wire.receive())[0] == bhs
        assert await wire._exactly(8) == b"\0\x05\x01\0abcd"


async def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(ConnectionFailed, match=r"cannot connect to 127.0.0.1:1: .*"):
        await TcpInitiator.connect("127.0.0.1", 1, User(), 5)


async def test_a_portal_that_does_not_answer_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        with pytest.raises(ConnectionFailed, match=r"did not answer within 0.1 s"):
            await TcpInitiator.connect("127.0.0.1", silent.getsockname()[1], User(), 0.1)
        for filler in fillers:
            filler.close()
