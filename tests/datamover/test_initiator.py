"""Tests of iser.datamover.initiator: what a command advertises, and how its registrations end."""

from __future__ import annotations

import pytest

from iser.datamover import IserInitiatorOptions, TaskBuffers
from iser.errors import ConnectionLost, LocalProtocolError, RemoteProtocolError, ResourceError
from iser.pdu import RESPONSE_UNDERFLOW, NopIn, Pdu, ScsiCommand, ScsiResponse, encode
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
