"""Tests of iser.datamover.initiator: what a command advertises, and how its registrations end."""

from __future__ import annotations

import asyncio
import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.datamover import IserInitiatorOptions, TaskBuffers
from iser.errors import ConnectionLost, LocalProtocolError, RemoteProtocolError, ResourceError
from iser.pdu import (
    COMMAND_READ,
    FINAL,
    RESPONSE_UNDERFLOW,
    NopIn,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    TaskAttribute,
    encode,
)
from iser.pdu.iser_header import PLAIN_HEADER
from iser.rdma.api import QpCap
from iser.rdma.softiwarp.qp import SoftQueuePair
from iser.sg import SgList
from tests.datamover.pair import DEPTH, Pair, connected


def incoming(length: int = 4096) -> SgList:
    return SgList.of(bytearray(length), writable=True)


def outgoing(length: int = 4096) -> SgList:
    return SgList.of(bytes(length), writable=False)


def answer_invalidating(pair: Pair, itt: int, rkey: int, bhs: ScsiResponse | NopIn | None = None) -> None:
    """What a target sends that minds nobody's rules."""
    pair.target._send(PLAIN_HEADER + encode(Pdu(bhs or ScsiResponse(itt=itt))), invalidate=rkey)


async def test_each_direction_has_one_key_from_the_command_to_its_response() -> None:
    async with connected() as pair:
        pair.command(1, read=incoming())
        pair.command(2, write=outgoing())
        pair.command(3)
        for _ in range(3):
            await pair.below.next()
        assert (pair.initiator.live_keys, pair.initiator.planner.in_use) == (2, 2)
        for itt in (1, 2, 3):
            await pair.respond(itt)
        assert (pair.initiator.live_keys, pair.initiator.planner.in_use) == (0, 0)
        counters = pair.initiator.counters
        assert (counters.commands, counters.stags) == (3, 2)


async def test_keys_are_dead_before_the_response_is_handed_up() -> None:
    async with connected(remote_invalidate=False) as pair:
        live: list[int] = []
        pair.above.react = lambda pdu: live.append(pair.initiator.live_keys)
        pair.command(1, read=incoming())
        await pair.below.next()
        await pair.respond(1)
        assert live == [0]


@pytest.mark.parametrize(
    ("length", "immediate", "unsolicited", "keys"), [(512, 512, 0, 0), (513, 512, 0, 1), (512, 0, 512, 0)]
)
async def test_data_that_goes_unasked_needs_no_key(length: int, immediate: int, unsolicited: int, keys: int) -> None:
    async with connected() as pair:
        pair.command(1, write=outgoing(length), immediate=immediate, unsolicited=unsolicited)
        pdu = await pair.below.next()
        assert len(pdu.data) == immediate
        assert pair.initiator.live_keys == keys


async def test_immediate_data_is_gathered_from_any_list_and_padded() -> None:
    async with connected() as pair:
        pieces = [b"ab", b"cdefg", b"", b"hij"]
        pair.command(1, write=SgList.of(pieces, writable=False), immediate=9)
        assert (await pair.below.next()).data == b"abcdefghi"


async def test_a_task_tag_is_used_once_at_a_time() -> None:
    async with connected() as pair:
        pair.command(1, read=incoming())
        with pytest.raises(LocalProtocolError, match="still in use"):
            pair.command(1, read=incoming())
        assert pair.initiator.live_keys == 1


async def test_deallocating_a_task_kills_its_keys_at_once() -> None:
    async with connected() as pair:
        pair.command(1, read=incoming())
        pair.initiator.deallocate_task_resources(1)
        pair.initiator.deallocate_task_resources(1)
        assert pair.initiator.live_keys == 0
        pair.command(1, read=incoming())
        assert pair.initiator.live_keys == 1


async def test_no_more_lists_than_the_queue_depth_promises() -> None:
    async with connected() as pair:
        for itt in range(2 * DEPTH):
            pair.command(itt, read=incoming())
        with pytest.raises(ResourceError, match="lower the queue depth"):
            pair.command(99, read=incoming())
        pair.initiator.deallocate_task_resources(0)
        pair.command(99, read=incoming())


async def test_a_second_list_that_cannot_be_had_gives_the_first_back() -> None:
    async with connected(IserInitiatorOptions(queue_depth=DEPTH, no_bounce=True, max_bytes=8192)) as pair:
        with pytest.raises(ResourceError):
            pair.command(1, read=incoming(), write=outgoing(1 << 20))
        assert (pair.initiator.planner.in_use, pair.initiator.live_keys) == (0, 0)


async def test_a_bounced_read_takes_over_only_what_arrived() -> None:
    async with connected(IserInitiatorOptions(queue_depth=DEPTH, strategy="bounce")) as pair:
        for itt, fields, expected in (
            (1, {}, b"data...!"),
            (2, {"flags": 0x80 | RESPONSE_UNDERFLOW, "residual": 5}, b"dat-----"),
            (3, {"status": 2}, b"--------"),
            (4, {"response": 1}, b"--------"),
            (5, {"flags": 0x80 | RESPONSE_UNDERFLOW, "residual": 99}, b"--------"),
        ):
            memory = bytearray(b"-" * 8)
            pair.command(itt, read=SgList.of(memory, writable=True))
            await pair.below.next()
            pair.target.put_data(itt, [memoryview(b"data...!")], 0, 0, notify=False)
            await pair.respond(itt, **fields)
            assert memory == expected, itt


async def test_an_invalidation_that_was_not_agreed_ends_the_connection() -> None:
    async with connected(remote_invalidate=False) as pair:
        pair.command(1, read=incoming())
        await pair.below.next()
        ((read, _),) = pair.initiator._tags.values()
        assert read is not None
        answer_invalidating(pair, 1, read.rkey)
        await pair.above.ended.wait()
        assert isinstance(pair.above.ends[0], RemoteProtocolError)


@pytest.mark.parametrize("bhs", [ScsiResponse(itt=2), ScsiResponse(itt=77), NopIn(itt=1)])
async def test_an_invalidation_of_what_is_not_the_tasks_ends_the_connection(bhs: ScsiResponse | NopIn) -> None:
    async with connected() as pair:
        pair.command(1, read=incoming())
        pair.command(2, read=incoming())
        await pair.below.next()
        tags, _ = pair.initiator._tags[1]
        assert tags is not None
        answer_invalidating(pair, 0, tags.rkey, bhs)
        await pair.above.ended.wait()
        assert isinstance(pair.above.ends[0], RemoteProtocolError)
        assert "which is not the task's" in str(pair.above.ends[0])
        assert pair.initiator.planner.in_use == 0


async def test_the_end_of_the_connection_frees_every_task() -> None:
    async with connected() as pair:
        for itt in range(5):
            pair.command(itt, read=incoming(), write=outgoing())
        await pair.below.next()
        pair.target.abort(ConnectionLost("gone"))
        await pair.above.ended.wait()
        assert (pair.initiator.planner.in_use, pair.initiator.live_keys) == (0, 0)
        with pytest.raises(LocalProtocolError, match="the connection has ended"):
            pair.command(9, read=incoming())
        assert pair.initiator.planner.in_use == 0


async def test_our_own_end_frees_every_task() -> None:
    async with connected() as pair:
        pair.command(1, read=incoming())
        pair.initiator.connection_terminate()
        assert (pair.initiator.planner.in_use, pair.initiator.live_keys) == (0, 0)
        with pytest.raises(LocalProtocolError, match="the connection has ended"):
            pair.initiator.send_command(Pdu(ScsiCommand(itt=2)), TaskBuffers())


async def test_a_command_that_cannot_be_posted_leaves_nothing() -> None:
    async with connected() as pair:
        qp = pair.initiator._qp
        assert isinstance(qp, SoftQueuePair)
        qp.core._cap = QpCap(0, 99)
        with pytest.raises(ResourceError):
            pair.command(1, read=incoming())
        assert (pair.initiator.planner.in_use, pair.initiator._tags) == (0, {})
        qp.core._cap = QpCap(9, 99)


# The short way does what the long one does


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 1 << 17),
    itt=st.integers(1, 0xFFFFFFFE),
    lun=st.integers(0, (1 << 64) - 1),
    numbers=st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)),
    cdb=st.binary(min_size=1, max_size=16),
)
def test_a_quick_read_is_the_same_on_the_wire(
    length: int, itt: int, lun: int, numbers: tuple[int, int], cdb: bytes
) -> None:
    cmd_sn, exp_stat_sn = numbers

    async def main() -> None:
        async with connected() as pair:
            messages: asyncio.Queue[bytes] = asyncio.Queue()
            pair.target._receive = lambda message, invalidated: messages.put_nowait(bytes(message))  # type: ignore[method-assign]  # to see all of it
            bhs = ScsiCommand(
                flags=FINAL | COMMAND_READ | TaskAttribute.SIMPLE,
                lun=lun,
                itt=itt,
                edtl=length,
                cmd_sn=cmd_sn,
                exp_stat_sn=exp_stat_sn,
                cdb=cdb.ljust(16, b"\0"),
            )
            data_in = incoming(length)
            counts, keys = [], []
            for quick in (False, True):
                before = pair.initiator.counters.copy()
                if quick:
                    pair.initiator.quick_read(itt, lun, cmd_sn, exp_stat_sn, cdb, data_in)
                else:
                    pair.initiator.send_command(Pdu(bhs), TaskBuffers(data_in))
                (read, write) = pair.initiator._tags[itt]
                assert read is not None
                assert write is None
                keys.append(read.rkey.to_bytes(4, "big"))
                counts.append(pair.initiator.counters.since(before))
                pair.initiator.deallocate_task_resources(itt)
            first, second = await messages.get(), await messages.get()
            assert first.replace(keys[0], keys[1]) == second
            assert counts[0] == counts[1]

    asyncio.run(main())


async def test_a_quick_read_is_refused_where_a_command_is() -> None:
    async with connected() as pair:
        quick = pair.initiator.quick_read
        quick(1, 0, 0, 0, b"read", incoming())
        with pytest.raises(LocalProtocolError, match="still in use"):
            quick(1, 0, 0, 0, b"read", incoming())
        with pytest.raises(LocalProtocolError, match="out of range"):
            quick(2, 1 << 64, 0, 0, b"read", incoming())
        assert (pair.initiator.live_keys, pair.initiator.planner.in_use) == (1, 1)
        pair.initiator.connection_terminate()
        with pytest.raises(LocalProtocolError, match="connection has ended"):
            quick(3, 0, 0, 0, b"read", incoming())
        assert pair.initiator.planner.in_use == 0


@pytest.mark.parametrize("agreed", [True, False])
@pytest.mark.parametrize("lists", ["none", "read", "write", "both"])
@pytest.mark.parametrize("invalidates", ["nothing", "read", "write", "another"])
@pytest.mark.parametrize(
    "bhs",
    [
        ScsiResponse(flags=FINAL, stat_sn=7, exp_cmd_sn=8, max_cmd_sn=9, exp_data_sn=3),
        ScsiResponse(flags=FINAL, status=2, stat_sn=7, max_cmd_sn=9),
        ScsiResponse(flags=FINAL, response=1, stat_sn=7),
        ScsiResponse(flags=FINAL | RESPONSE_UNDERFLOW, residual=512, stat_sn=7),
        ScsiResponse(flags=FINAL, residual=512, stat_sn=7),
        NopIn(itt=1, ttt=0xFFFFFFFF, stat_sn=7),
    ],
)
async def test_a_quick_answer_ends_what_a_response_ends(
    bhs: ScsiResponse | NopIn, invalidates: str, lists: str, agreed: bool
) -> None:
    if invalidates in ("read", "write") and lists not in (invalidates, "both"):
        return  # there is no such key
    (clear, _), (short, quickly) = [
        await _outcome(bhs, invalidates, lists, agreed=agreed, quick=quick) for quick in (False, True)
    ]
    assert clear == short
    plain = isinstance(bhs, ScsiResponse) and not (bhs.status or bhs.response or bhs.residual)
    assert quickly == (plain and ((lists, invalidates) == ("none", "nothing") or (agreed and lists == invalidates)))


async def _outcome(
    bhs: ScsiResponse | NopIn, invalidates: str, lists: str, *, agreed: bool, quick: bool
) -> tuple[object, bool]:
    """All that a response leads to, and whether it took the short way."""
    ends: list[int] = []
    async with connected(remote_invalidate=agreed) as pair:

        def end(itt: int, stat_sn: int, max_cmd_sn: int) -> None:
            ends.append(itt)
            pair.above.control_notify(Pdu(ScsiResponse(flags=FINAL, itt=itt, stat_sn=stat_sn, max_cmd_sn=max_cmd_sn)))

        if quick:
            pair.initiator.answer_quickly(end)
        with memoryview(mmap.mmap(-1, 2 * mmap.PAGESIZE)) as pages:  # so that lists have as many entries each time
            read = SgList.of(pages[: mmap.PAGESIZE], writable=True) if lists in ("read", "both") else None
            write = SgList.of(pages[mmap.PAGESIZE :], writable=False) if lists in ("write", "both") else None
        pair.command(1, read=read, write=write)
        await pair.below.next()
        keys = {"nothing": 0, "another": 0x12345600}
        for kind, registration in zip(("read", "write"), pair.initiator._tags.get(1, (None, None)), strict=True):
            keys[kind] = registration.rkey if registration else 0
        answer_invalidating(pair, 1, keys[invalidates], bhs._replace(itt=1))
        news = await pair.news()
        heard = _sense(news) if isinstance(news, Pdu) else type(news)
        initiator = pair.initiator
        left = initiator.live_keys, initiator.planner.in_use, 1 in initiator._tags
        return (heard, left, initiator.counters.copy()), bool(ends)


def _sense(pdu: Pdu) -> object:
    """What a session looks at in a PDU."""
    bhs = pdu.bhs
    if not isinstance(bhs, ScsiResponse):
        return bhs
    return bhs.itt, bhs.flags, bhs.response, bhs.status, bhs.stat_sn, bhs.max_cmd_sn, bhs.residual, bytes(pdu.data)


@pytest.mark.parametrize(
    ("error", "expected"), [(RemoteProtocolError("no"), RemoteProtocolError), (ZeroDivisionError(), LocalProtocolError)]
)
async def test_what_fails_on_a_quick_answer_ends_the_connection(error: Exception, expected: type[Exception]) -> None:
    async with connected() as pair:

        def fail(itt: int, stat_sn: int, max_cmd_sn: int) -> None:
            raise error

        pair.initiator.answer_quickly(fail)
        pair.command(1)
        await pair.below.next()
        pair.target.send_control(Pdu(ScsiResponse(flags=FINAL, itt=1)))
        await asyncio.wait_for(pair.above.ended.wait(), 5)
        assert isinstance(pair.above.ends[0], expected)
