"""The target's end: Data-In with status, R2Ts and the Data-Outs that answer them, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iser.datamover.tcp.endpoint import MAX_DROPPED
from iser.errors import LocalProtocolError
from iser.pdu import (
    COMMAND_WRITE,
    DATA_IN_STATUS,
    FINAL,
    R2T,
    RESERVED_TAG,
    DataIn,
    DataOut,
    NopIn,
    NopOut,
    Pdu,
    RejectReason,
    ScsiCommand,
    ScsiResponse,
    encode,
)
from tests.datamover.tcp.ends import Wire, target

ITT = 7


def response(stat_sn: int = 100, **more: Any) -> Pdu:
    return Pdu(ScsiResponse(itt=ITT, stat_sn=stat_sn, exp_cmd_sn=12, max_cmd_sn=22, **more))


def data_out(r2t: R2T, data: bytes, *, at: int = 0, sn: int = 0, last: bool = True, **more: Any) -> Pdu:
    bhs = DataOut(flags=FINAL if last else 0, itt=ITT, ttt=r2t.ttt, data_sn=sn, buffer_offset=r2t.buffer_offset + at)
    return Pdu(bhs._replace(**more), data)


async def asked(wire: Wire) -> R2T:
    bhs, _ = await wire.receive()
    assert isinstance(bhs, R2T)
    return bhs


async def test_a_read_is_data_with_its_status_in_the_last_pdu() -> None:
    async with target() as (end, _, wire):
        memory = bytes(range(256)) * 20
        end.put_data(ITT, [memoryview(memory)], 0, 0, notify=False)
        end.send_control(response())
        (first, one), (last, two) = await wire.receive(), await wire.receive()
        assert one + two == memory
        assert (first.flags, last.flags) == (0, FINAL | DATA_IN_STATUS)
        assert (first.exp_cmd_sn, first.max_cmd_sn) == (10, 20)
        assert (last.stat_sn, last.exp_cmd_sn, last.max_cmd_sn, last.data_sn) == (100, 12, 22, 1)


async def test_sense_goes_in_a_response_of_its_own_that_counts_the_data() -> None:
    async with target() as (end, _, wire):
        end.put_data(ITT, [memoryview(bytes(5000))], 0, 0, notify=False)
        end.send_control(response()._replace(data=b"\0\2ab"))
        await wire.receive()
        assert (await wire.receive())[0].flags == FINAL
        bhs, data = await wire.receive()
        assert (type(bhs), bhs.exp_data_sn, data) == (ScsiResponse, 2, b"\0\2ab")


async def test_a_second_put_goes_on_where_the_first_ended() -> None:
    async with target() as (end, _, wire):
        end.put_data(ITT, [memoryview(bytes(5000))], 0, 1, notify=False)
        end.put_data(ITT, [memoryview(bytes(100))], 5000, 2, notify=False)
        end.send_control(response())
        pdus = [(await wire.receive())[0] for _ in range(3)]
        assert [(bhs.data_sn, bhs.buffer_offset) for bhs in pdus] == [(0, 0), (1, 4096), (2, 5000)]
        assert [bhs.flags for bhs in pdus] == [0, FINAL, FINAL | DATA_IN_STATUS]


async def test_a_response_does_not_overtake_what_was_queued_since() -> None:
    async with target() as (end, _, wire):
        end.put_data(ITT, [memoryview(bytes(8))], 0, 0, notify=False)
        end.send_control(Pdu(NopIn(itt=1, stat_sn=100)))
        end.send_control(response(101))
        assert [type((await wire.receive())[0]) for _ in range(3)] == [DataIn, NopIn, ScsiResponse]


async def test_the_end_of_a_put_is_notified_when_asked_for() -> None:
    async with target() as (end, user, wire):
        end.put_data(ITT, [memoryview(bytes(9000))], 0, 5, notify=True)
        assert user.completed == []
        await wire.receive()
        assert await user.until("completed") == [(ITT, 5)]


@pytest.mark.parametrize("size", [1000, 40_000])
async def test_write_data_is_asked_for_in_bursts_and_placed(size: int) -> None:
    async with target(max_burst_length=size) as (end, user, wire):
        await wire.send(Pdu(ScsiCommand(flags=FINAL | COMMAND_WRITE, itt=ITT, lun=5 << 48)))
        await user.until("pdus")
        length = size * 2 + 100
        source = bytes(index % 253 for index in range(length))
        memory = bytearray(length)
        whole = memoryview(memory)
        end.get_data(ITT, [whole[:300], whole[300:]], 512, 3)
        one, two = await asked(wire), await asked(wire)
        assert [(r2t.r2t_sn, r2t.buffer_offset, r2t.desired_data_transfer_length) for r2t in (one, two)] == [
            (0, 512, size),
            (1, 512 + size, size),
        ]
        assert (one.lun, one.stat_sn, one.exp_cmd_sn, one.max_cmd_sn) == (5 << 48, 100, 10, 20)
        # The second before the first, each in two PDUs.
        half = size // 2
        for r2t in (two, one):
            data = source[r2t.buffer_offset - 512 :][:size]
            await wire.send(data_out(r2t, data[:half], last=False), data_out(r2t, data[half:], at=half, sn=1))
        three = await asked(wire)
        assert (three.r2t_sn, three.desired_data_transfer_length) == (2, 100)
        assert user.completed == []
        await wire.send(data_out(three, source[-100:]))
        assert await user.until("completed") == [(ITT, 3)]
        assert bytes(memory) == source
        end.send_control(response())
        assert (await wire.receive())[0].exp_data_sn == 3


async def test_unsolicited_data_goes_up() -> None:
    async with target() as (_, user, wire):
        await wire.send(Pdu(DataOut(itt=ITT), b"data"), Pdu(DataOut(itt=ITT), bytes(50_000)))
        first, second = await user.until("pdus", 2)
        assert (first[0].ttt, first[1], len(second[1])) == (RESERVED_TAG, b"data", 50_000)


@pytest.mark.parametrize(
    "change", [{"data_sn": 1}, {"data_sn": 0xFFFFFFFF}, {"buffer_offset": 1}, {"flags": 0}, {"size": 1}]
)
@pytest.mark.parametrize("size", [1000, 40_000])
async def test_data_out_of_step_fails_its_task_and_the_connection_lives(change: dict[str, int], size: int) -> None:
    async with target(max_burst_length=size) as (end, user, wire):
        memory = bytearray(size * 2)
        end.get_data(ITT, [memoryview(memory)], 0, 3)
        one, two = await asked(wire), await asked(wire)
        more: dict[str, Any] = {key: value for key, value in change.items() if key != "size"}
        await wire.send(data_out(one, b"\xff" * (size + change.get("size", 0)), **more), data_out(two, b"\xff" * size))
        ((itt, sn, why),) = await user.until("failed")
        assert (itt, sn) == (ITT, 3)
        assert "expected 0, 0, up to" in why
        end.send_control(response(status=2))
        assert (await wire.receive())[0].status == 2
        # The tag may be used anew, and its data is not mixed up with what was left of the old.
        end.get_data(ITT, [memoryview(memory)[:size]], 0, 4)
        assert not any(memory)
        await wire.send(data_out(await asked(wire), b"\x01" * size))
        assert await user.until("completed") == [(ITT, 4)]
        assert memory == b"\x01" * size + bytes(size)


@pytest.mark.parametrize("change", [{"itt": 8}, {"ttt": 0x1234}])
@pytest.mark.parametrize("size", [0, 1000, 40_000])
async def test_data_that_nobody_asked_for_is_rejected_and_ends_the_connection(
    change: dict[str, Any], size: int
) -> None:
    async with target() as (end, user, wire):
        memory = bytearray(size or 8)
        end.get_data(ITT, [memoryview(memory)], 0, 3)
        await wire.send(data_out(await asked(wire), b"\xff" * size, **change))
        assert "was not given" in await user.refused()
        assert [error.reason for error in user.malformed] == [RejectReason.PROTOCOL_ERROR]
        assert not any(memory)
        assert not user.completed
        assert not user.failed


@pytest.mark.parametrize("first", [0, 100, 30_000])
async def test_data_of_an_ended_task_is_thrown_away(first: int) -> None:
    async with target() as (end, user, wire):
        memory = bytearray(50_000)
        end.get_data(ITT, [memoryview(memory)], 0, 3)
        pdu = await asked(wire)
        message = encode(data_out(pdu, b"\xff" * 50_000))
        await wire.send(message[:first])
        for _ in range(100):
            await asyncio.sleep(0)
        end.deallocate_task_resources(ITT)
        assert user.completed == [(ITT, 3)]
        before = bytes(memory)
        await wire.send(message[first:], Pdu(NopOut(itt=1)))
        assert isinstance((await user.until("pdus"))[0][0], NopOut)
        assert bytes(memory) == before
        assert user.completed == [(ITT, 3)]


async def test_transfer_tags_of_ended_tasks_are_remembered_up_to_a_limit() -> None:
    async with target() as (end, user, wire):
        tags = []
        for _ in range(MAX_DROPPED + 1):
            end.get_data(ITT, [memoryview(bytearray(8))], 0, 3)
            tags.append(await asked(wire))
            end.deallocate_task_resources(ITT)
        await wire.send(*(data_out(r2t, bytes(8)) for r2t in tags[1:]), Pdu(NopOut()))
        await user.until("pdus")
        await wire.send(data_out(tags[0], bytes(8)))
        assert "was not given" in await user.refused()


async def test_after_the_end_nothing_can_be_sent() -> None:
    async with target() as (end, user, wire):
        end.connection_terminate()
        assert await wire.gone()
        with pytest.raises(LocalProtocolError, match="has ended"):
            end.put_data(ITT, [memoryview(b"x")], 0, 0, notify=False)
        with pytest.raises(LocalProtocolError, match="has ended"):
            end.get_data(ITT, [memoryview(bytearray(8))], 0, 0)
        with pytest.raises(LocalProtocolError, match="has ended"):
            end.send_control(response())
        assert user.ends == []


@pytest.mark.parametrize("behind", [False, True])
async def test_quick_answers_are_those_of_the_primitives(behind: bool) -> None:
    async with target() as (end, user, wire):
        assert end.quick is end
        assert end.quick_limit == 4096
        asked: list[bytes] = []

        def start(buffer: bytes | bytearray | memoryview, offset: int, data: memoryview | bytes) -> bool:
            asked.append(bytes(data))
            if behind:
                end.send_control(Pdu(NopIn(itt=3, stat_sn=99)))
            end.quick_read(ITT, [memoryview(b"d" * 512)], 512, 100, 13, 23, 1)
            end.quick_good(ITT + 1, 101, 14, 24)
            return True

        end.serve_quickly(start)
        await wire.send(Pdu(ScsiCommand(itt=ITT), b"abcd"))
        if behind:
            await wire.receive()
        bhs, data = await wire.receive()
        assert data == b"d" * 512
        assert bhs == DataIn(
            flags=FINAL | DATA_IN_STATUS, data_segment_length=512, itt=ITT, stat_sn=100, exp_cmd_sn=13, max_cmd_sn=23
        )
        assert (await wire.receive())[0] == ScsiResponse(itt=ITT + 1, stat_sn=101, exp_cmd_sn=14, max_cmd_sn=24)
        assert await user.until("completed") == [(ITT, 1)]
        assert (asked, user.pdus) == ([b"abcd"], [])


async def test_quick_reads_are_not_for_digests() -> None:
    async with target(header_digest="CRC32C") as (header, _, _wire), target(data_digest="CRC32C") as (data, _, _wire):
        assert header.quick_limit == data.quick_limit == 0
