"""The send queue on a device that does only what the test tells it: order, credit and silence."""

from __future__ import annotations

import pytest

from iser.errors import ResourceError
from iser.rdma.api import (
    QpCap,
    QpState,
    RdmaRead,
    RdmaWrite,
    Send,
)
from iser.rdma.verbs.constants import (
    OP_RDMA_READ,
    OP_RDMA_WRITE,
    OP_SEND,
    QPS_ERR,
    SEND_SIGNALED,
)
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.options import MIN_SEND_DEPTH, SIGNAL_INTERVAL
from tests.rdma.verbs.conftest import End, mapping


async def test_silent_requests_are_told_complete_now_and_then_by_the_device_and_never_to_the_user(end: End) -> None:
    end.connect()
    for _ in range(3 * SIGNAL_INTERVAL):
        end.qp.post_send(Send(None, (memoryview(bytes(200)),), signaled=False))
    signaled = [sent.wr_id for sent in end.raw.sends if sent.flags & SEND_SIGNALED]
    assert len(signaled) == 3
    await end.complete(*signaled)
    assert end.log == []
    assert not end.qp._sends.ring


async def test_reads_in_between_do_not_keep_sends_from_being_told_complete(end: End) -> None:
    """A target that serves writes posts a read and a response in turn; it once ran out of places for responses."""
    end.connect()
    view = mapping(100)
    for number in range(4 * SIGNAL_INTERVAL):
        end.qp.post_send(RdmaRead(number, [view[:10]], 0, 7), Send(None, (memoryview(b"response"),), signaled=False))
        await end.complete(*[sent.wr_id for sent in end.raw.sends[-2:] if sent.flags & SEND_SIGNALED])
    assert end.qp._sends.posted < SIGNAL_INTERVAL


async def test_what_the_device_has_no_room_for_waits_in_order(device: VerbsDevice) -> None:
    end = End(device, QpCap(MIN_SEND_DEPTH, 8))
    end.connect()
    view = mapping(4096)
    for number in range(MIN_SEND_DEPTH):
        # Two device requests each: five pages in a device that takes four elements.
        end.qp.post_send(RdmaWrite(number, [view[at : at + 10] for at in range(0, 50, 10)], number << 12, 5, True))
    assert len(end.raw.sends) == MIN_SEND_DEPTH
    with pytest.raises(ResourceError, match="raise max_send_wr"):
        end.qp.post_send(*[Send(None, (memoryview(b"x"),))] * (SIGNAL_INTERVAL + 1))
    while len(end.log) < MIN_SEND_DEPTH:
        await end.complete(*[sent.wr_id for sent in end.raw.sends if sent.wr_id >> 1 in dict(end.qp._sends.ring)])
    assert [each.wr_id for each in end.log] == list(range(MIN_SEND_DEPTH))
    assert [sent.remote for sent in end.raw.sends[:4]] == [0, 40, 4096, 4136]
    await end.close()


async def test_reads_beyond_the_agreed_depth_wait_and_hold_back_nothing_else(end: End) -> None:
    end.connect(read_depth=2)
    view = mapping(4096)
    for number in range(4):
        end.qp.post_send(RdmaRead(number, [view[number : number + 1]], number, 7))
    end.qp.post_send(Send("after", (memoryview(b"x"),)))
    assert [sent.opcode for sent in end.raw.sends] == [OP_RDMA_READ, OP_RDMA_READ, OP_SEND]
    await end.complete(end.raw.sends[0].wr_id)
    assert [sent.remote for sent in end.raw.sends if sent.opcode == OP_RDMA_READ] == [0, 1, 2]


async def test_an_orderly_end_waits_for_what_was_posted_with_an_empty_write_behind_it(end: End) -> None:
    end.connect()
    end.qp.post_send(Send(None, (memoryview(b"logout"),), signaled=False))
    end.qp.disconnect()
    assert end.qp.state is QpState.ERR
    _, marker = end.raw.sends
    assert (marker.opcode, marker.flags, marker.elements[0][1]) == (OP_RDMA_WRITE, SEND_SIGNALED, 0)
    assert QPS_ERR not in end.raw.states
    await end.complete(marker.wr_id)
    assert end.raw.states[-1] == QPS_ERR
    assert end.ends == [None]
    assert end.raw.closed
