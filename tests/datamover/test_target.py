"""Tests of iser.datamover.target: RDMA Writes and Reads, base offsets, invalidation."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from iser.datamover import DatamoverState, IserInitiator, IserInitiatorOptions, IserTarget
from iser.errors import ConnectionRejected, LocalProtocolError, RemoteProtocolError, UsageError
from iser.login import NegotiatedParameters
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    CONTROL,
    FINAL,
    RSV,
    WSV,
    IserHeader,
    NopOut,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    build_control,
    build_header,
    encode,
    encode_bhs,
)
from iser.pdu.layout import ReadBuffer
from iser.rdma.api import ConnectRequest
from iser.rdma.softiwarp import SoftIwarp
from iser.sg import SgList
from tests.datamover.pair import Pair, User, connected

PARAMS = NegotiatedParameters()


async def start(pair: Pair, itt: int = 1, **lists: SgList | int) -> None:
    pair.command(itt, **lists)  # type: ignore[arg-type]  # passed on as they are
    assert (await pair.below.next()).bhs.itt == itt


async def test_put_data_lands_at_its_offset_before_the_response() -> None:
    async with connected() as pair:
        memory = bytearray(b"." * 30)
        view = memoryview(memory)
        await start(pair, read=SgList.of([view[0:7], view[10:20], view[21:24]], writable=True))
        pair.target.put_data(1, [memoryview(b"abc"), memoryview(b"defgh")], 5, 0, notify=False)
        await pair.respond()
        assert memory == b".....ab...cdefgh.............."


async def test_put_data_notifies_on_demand() -> None:
    async with connected() as pair:
        await start(pair, read=SgList.of(bytearray(8), writable=True))
        pair.target.put_data(1, [memoryview(b"abcd")], 0, 1, notify=False)
        pair.target.put_data(1, [memoryview(b"efgh")], 4, 2, notify=True)
        assert await asyncio.wait_for(pair.below.moved.get(), 5) == (1, 2)
        assert pair.below.moved.empty()


@pytest.mark.parametrize(
    ("declared", "immediate", "unsolicited"),
    [(None, 0, 0), (None, 100, 0), (None, 100, 512), (True, 100, 512), (None, 0, 512)],
)
async def test_get_data_reads_from_the_first_solicited_byte(
    declared: bool | None, immediate: int, unsolicited: int
) -> None:
    params = replace(PARAMS, tagged_buffer_for_solicited_data_only=declared, first_burst_length=512)
    async with connected(params=params) as pair:
        data = bytes(i % 251 for i in range(2000))
        await start(pair, write=SgList.of(data, writable=False), immediate=immediate, unsolicited=unsolicited)
        unasked = max(immediate, unsolicited)
        sink = bytearray(2000 - unasked)
        pair.target.get_data(1, [memoryview(sink)[:500], memoryview(sink)[500:]], unasked, 9)
        assert await asyncio.wait_for(pair.below.moved.get(), 5) == (1, 9)
        assert sink == data[unasked:]


async def test_get_data_of_a_buffer_declared_to_begin_at_byte_zero() -> None:
    """TaggedBufferForSolicitedDataOnly=No: the base is that of the whole buffer (RFC 7145 section 6.8)."""
    params = replace(PARAMS, tagged_buffer_for_solicited_data_only=False)
    async with connected(params=params) as pair:
        data = bytes(i % 251 for i in range(2000))
        # Our initiator never declares No, so the base is that of a list without unsolicited data.
        pair.command(write=SgList.of(data, writable=False))
        await pair.below.next()
        sink = bytearray(100)
        pair.target.get_data(1, [memoryview(sink)], 1900, 0)
        await asyncio.wait_for(pair.below.moved.get(), 5)
        assert sink == data[1900:]


async def test_data_needs_a_tag_of_its_direction() -> None:
    async with connected() as pair:
        await start(pair, 1, read=SgList.of(bytearray(8), writable=True))
        await start(pair, 2, write=SgList.of(bytes(8), writable=False))
        target = pair.target
        assert (target.can_put(1), target.can_get(1)) == (True, False)
        assert (target.can_put(2), target.can_get(2)) == (False, True)
        assert (target.can_put(3), target.can_get(3)) == (False, False)
        view = [memoryview(bytearray(8))]
        for itt in (2, 3):
            with pytest.raises(LocalProtocolError, match="advertised no read STag"):
                target.put_data(itt, view, 0, 0, notify=False)
        for itt in (1, 3):
            with pytest.raises(LocalProtocolError, match="advertised no write STag"):
                target.get_data(itt, view, 0, 0)
        with pytest.raises(LocalProtocolError, match="beyond its EDTL of 8"):
            target.put_data(1, view, 1, 0, notify=False)
        with pytest.raises(LocalProtocolError, match="bytes 4 to 12 lie beyond"):
            target.get_data(2, view, 4, 0)


async def test_the_tags_of_a_task_end_with_its_response_or_its_abort() -> None:
    async with connected() as pair:
        await start(pair, 1, read=SgList.of(bytearray(8), writable=True))
        await start(pair, 2, read=SgList.of(bytearray(8), writable=True))
        await pair.respond(1)
        pair.target.deallocate_task_resources(2)
        pair.target.deallocate_task_resources(2)
        assert not pair.target.can_put(1)
        assert not pair.target.can_put(2)


async def test_a_second_command_under_a_live_tag_does_not_take_its_buffer() -> None:
    async with connected() as pair:
        memory = bytearray(8)
        await start(pair, 1, read=SgList.of(memory, writable=True))
        header = build_header(IserHeader(0x14, 0, 0, 0xDEAD, 0xBEEF))
        pair.initiator._send(header + encode(Pdu(ScsiCommand(flags=FINAL | COMMAND_READ, itt=1, edtl=8))))
        await pair.below.next()
        pair.target.put_data(1, [memoryview(b"the same")], 0, 0, notify=False)
        await pair.respond(1)
        assert memory == b"the same"


async def test_a_buffer_past_the_end_of_the_address_space_is_a_protocol_error() -> None:
    async with connected() as pair:
        header = build_header(IserHeader(0x14, 0, 0, 1, (1 << 64) - 100))
        pair.initiator._send(header + encode(Pdu(ScsiCommand(flags=FINAL | COMMAND_READ, itt=1, edtl=101))))
        await pair.below.ended.wait()
        assert isinstance(pair.below.ends[0], RemoteProtocolError)


@pytest.mark.parametrize("ours", [True, False])
async def test_a_response_invalidates_only_what_was_agreed(ours: bool) -> None:
    async with connected(remote_invalidate=ours) as pair:
        assert pair.target.remote_invalidate is pair.initiator.remote_invalidate is ours
        await start(pair, 1, read=SgList.of(bytearray(8), writable=True))
        await start(pair, 2, write=SgList.of(bytes(8), writable=False))
        await start(pair, 3)
        for itt in (1, 2, 3):
            await pair.respond(itt)
        counters = pair.initiator.counters
        assert (counters.remote_invalidations, counters.local_invalidations) == ((2, 0) if ours else (0, 2))
        assert pair.initiator.live_keys == 0


async def test_a_fault_after_data_moved_ends_this_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as pair:

        def stumble() -> None:
            raise ZeroDivisionError

        pair.below.moved_react = stumble
        await start(pair, read=SgList.of(bytearray(4), writable=True))
        pair.target.put_data(1, [memoryview(b"abcd")], 0, 2, notify=True)
        await asyncio.wait_for(pair.below.ended.wait(), 5)
        assert isinstance(pair.below.ends[0], LocalProtocolError)
    faults = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in faults] == ["iser.datamover"]


async def test_a_connection_that_dies_while_it_is_accepted_leaves_nothing() -> None:
    provider = SoftIwarp()
    done = asyncio.Event()
    target = IserTarget(User())

    async def on_request(request: ConnectRequest) -> None:
        await request.reject()
        with pytest.raises(UsageError):
            await target.accept(request, 8, remote_invalidate=True)
        done.set()

    listener = await provider.listen("127.0.0.1", 0, on_request)
    keys = len(provider.device.keys.regions)
    with pytest.raises(ConnectionRejected):
        await IserInitiator.connect(SoftIwarp(), *listener.address, User(), IserInitiatorOptions(), 5)
    await asyncio.wait_for(done.wait(), 5)
    assert target.state is DatamoverState.CLOSED
    assert len(provider.device.keys.regions) == keys
    await target.close()
    await listener.close()


async def test_pdus_without_tags_reach_the_user() -> None:
    async with connected() as pair:
        pair.initiator.send_control(Pdu(NopOut(itt=4)))
        assert (await pair.below.next()).bhs.itt == 4
        assert isinstance((await pair.respond(4)).bhs, ScsiResponse)


# The short way

BASE, KEY = 0x7F00_0000_1000, 0xABCD01
READ, WRITE = FINAL | COMMAND_READ, FINAL | COMMAND_WRITE


def wire(
    header: tuple[int, int, int, int, int] = (CONTROL | RSV, 0, 0, KEY, BASE), extra: bytes = b"", **fields: int
) -> bytes:
    """A message with a SCSI Command of any kind, its iSER header as it is given."""
    bhs = ScsiCommand(**({"flags": READ, "itt": 1, "edtl": 4096} | fields))  # type: ignore[arg-type]  # integers all
    return build_control(header) + encode_bhs(bhs) + extra


ASKED = {
    "a read": wire(),
    "a write": wire((CONTROL, 0, 0, 0, 0), b"x" * 512, flags=WRITE, edtl=512, data_segment_length=512),
    "a write with a key": wire((CONTROL | WSV, KEY, BASE, 0, 0), flags=WRITE, data_segment_length=0),
    "padding": wire((CONTROL, 0, 0, 0, 0), b"x" * 8, flags=WRITE, edtl=5, data_segment_length=5),
    "the end of the address space": wire((CONTROL | RSV, 0, 0, KEY, (1 << 64) - 4096)),
}
NOT_ASKED = {
    "immediate": wire(opcode=0x41),
    "another PDU": build_control((CONTROL, 0, 0, 0, 0)) + encode_bhs(NopOut(itt=1)),
    "a read without a key": wire((CONTROL, 0, 0, 0, 0)),
    "a read with the key of a write": wire((CONTROL | WSV, KEY, BASE, 0, 0)),
    "a write with the key of a read": wire(flags=WRITE),
    "both keys": wire((CONTROL | RSV | WSV, KEY, BASE, KEY, BASE)),
    "both directions": wire(flags=READ | WRITE),
    "reserved bits": wire((CONTROL | RSV | 1, 0, 0, KEY, BASE)),
    "AHS": wire(total_ahs_length=2, extra=bytes((0, 5, 1, 0, 0, 0, 0, 0))),
    "less data than announced": wire((CONTROL, 0, 0, 0, 0), b"x" * 4, flags=WRITE, data_segment_length=8),
    "more data than announced": wire((CONTROL, 0, 0, 0, 0), b"x" * 8, flags=WRITE, data_segment_length=4),
    "too much data": wire((CONTROL, 0, 0, 0, 0), b"x" * 8196, flags=WRITE, data_segment_length=8196),
    "past the end of the address space": wire((CONTROL | RSV, 0, 0, KEY, (1 << 64) - 4095)),
    "a write past it": wire((CONTROL | WSV, KEY, (1 << 64) - 4095, 0, 0), flags=WRITE, data_segment_length=0),
    "no whole BHS": wire()[:75],
    "a Hello": b"\x20" + wire()[1:],
}


async def asked(message: bytes, *, first: bytes = b"") -> list[tuple[bytes, int, bytes]]:
    """What the short way was asked for: the message, where its BHS is, and its data."""
    found: list[tuple[bytes, int, bytes]] = []

    def start(buffer: ReadBuffer, offset: int, data: memoryview | bytes) -> bool:
        found.append((bytes(buffer), offset, bytes(data)))
        return False

    async with connected() as pair:
        if first:
            pair.initiator._send(first)
            await pair.below.next()
        pair.target.serve_quickly(start)
        pair.initiator._send(message)
        ends = {asyncio.create_task(pair.below.pdus.get()), asyncio.create_task(pair.below.ended.wait())}
        done, rest = await asyncio.wait(ends, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done  # what is not taken goes the long way
        for task in rest:
            task.cancel()
    return found


@pytest.mark.parametrize("name", ASKED)
async def test_the_short_way_is_asked_for_commands_without_fault(name: str) -> None:
    message = ASKED[name]
    length = int.from_bytes(message[33:36], "big")
    assert await asked(message) == [(message, 28, message[76 : 76 + length])]


@pytest.mark.parametrize("name", NOT_ASKED)
async def test_the_short_way_is_not_asked_for_others(name: str) -> None:
    assert not await asked(NOT_ASKED[name])


async def test_the_short_way_is_not_asked_for_a_tag_in_use() -> None:
    assert not await asked(wire(), first=wire())


@pytest.mark.parametrize("ours", [True, False])
async def test_the_short_way_of_a_read(ours: bool) -> None:
    async with connected(remote_invalidate=ours) as pair:
        memory = bytearray(b"." * 14)
        views = [memoryview(b"abc"), memoryview(b"defgh")]

        def start(buffer: ReadBuffer, offset: int, data: memoryview | bytes) -> bool:
            pair.target.quick_read(1, views, 8, 11, 12, 13, 7)
            return True

        pair.target.serve_quickly(start)
        pair.command(1, read=SgList.of([memoryview(memory)[1:5], memoryview(memory)[6:10]], writable=True))
        answer = await pair.above.next()
        assert answer == Pdu(ScsiResponse(itt=1, stat_sn=11, exp_cmd_sn=12, max_cmd_sn=13))
        assert memory == b".abcd.efgh...."
        assert await asyncio.wait_for(pair.below.moved.get(), 5) == (1, 7)
        assert pair.below.pdus.empty()
        counters = pair.initiator.counters
        assert (counters.remote_invalidations, counters.local_invalidations) == ((1, 0) if ours else (0, 1))


async def test_the_short_way_of_a_write() -> None:
    async with connected() as pair:
        stored = bytearray()

        def start(buffer: ReadBuffer, offset: int, data: memoryview | bytes) -> bool:
            stored.extend(data)
            pair.target.quick_good(1, 11, 12, 13)
            return True

        pair.target.serve_quickly(start)
        pair.command(1, write=SgList.of(b"some data", writable=False), immediate=9)
        assert await pair.above.next() == Pdu(ScsiResponse(itt=1, stat_sn=11, exp_cmd_sn=12, max_cmd_sn=13))
        assert stored == b"some data"


async def test_the_short_way_invalidates_the_key_of_a_write_that_had_one() -> None:
    async with connected() as pair:

        def start(buffer: ReadBuffer, offset: int, data: memoryview | bytes) -> bool:
            pair.target.quick_good(1, 11, 12, 13)
            return True

        pair.target.serve_quickly(start)
        pair.command(1, write=SgList.of(b"some data", writable=False), immediate=4)
        await pair.above.next()
        assert pair.initiator.counters.remote_invalidations == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(RemoteProtocolError("it did"), RemoteProtocolError), (ZeroDivisionError(), LocalProtocolError)],
)
async def test_a_fault_in_the_short_way_ends_this_connection_only(
    fault: Exception, reason: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async with connected() as pair:

        def start(buffer: ReadBuffer, offset: int, data: memoryview | bytes) -> bool:
            raise fault

        pair.target.serve_quickly(start)
        pair.initiator._send(wire())
        await asyncio.wait_for(pair.below.ended.wait(), 5)
        assert isinstance(pair.below.ends[0], reason)
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == (
        reason is LocalProtocolError
    )
