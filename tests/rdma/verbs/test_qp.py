"""The queue pair on a device that does only what the test tells it: order, credit, memory and the end."""

from __future__ import annotations

import mmap

import pytest

from iser.errors import ConnectionLost, IserError, LocalProtocolError, MemoryRegionError, ResourceError
from iser.rdma.api import (
    Access,
    LocalInv,
    MrType,
    QpCap,
    QpState,
    RdmaRead,
    RdmaWrite,
    RegMr,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
)
from iser.rdma.verbs.constants import (
    OP_RDMA_READ,
    OP_RDMA_WRITE,
    OP_SEND,
    OP_SEND_WITH_INV,
    QPS_ERR,
    SEND_INLINE,
    SEND_SIGNALED,
    CmEventType,
)
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.options import MIN_SEND_DEPTH, SIGNAL_INTERVAL
from iser.rdma.verbs.rdmacm import CmEvent
from iser.sg import SgList
from tests.rdma.verbs.conftest import End, turns
from tests.rdma.verbs.fakes import FakeContext


def mapping(length: int) -> memoryview:
    return memoryview(mmap.mmap(-1, length))[:length]


def cm_event(kind: CmEventType) -> CmEvent:
    return CmEvent(kind, 0, 1, 0, b"", 0, 0)


async def test_a_small_message_goes_inline_and_its_memory_may_change_at_once(end: End) -> None:
    end.connect()
    end.qp.post_send(Send("a", (memoryview(b"abc"), memoryview(b"de")), signaled=True))
    (sent,) = end.raw.sends
    assert (sent.opcode, sent.flags) == (OP_SEND, SEND_INLINE | SEND_SIGNALED)
    assert sent.elements[0][1] == 5
    await end.complete(sent.wr_id)
    assert end.log == [WorkCompletion("a", WcStatus.SUCCESS, WcOpcode.SEND, 0)]


async def test_a_larger_message_is_copied_into_registered_memory_used_again_when_it_is_done(end: End) -> None:
    end.connect()
    for _ in range(3):
        end.qp.post_send(Send(None, (memoryview(bytes(300)),), signaled=True))
        await end.complete(end.raw.sends[-1].wr_id)
    assert len({sent.elements for sent in end.raw.sends}) == 1
    address, length, lkey = end.raw.sends[0].elements[0]
    assert length == 300
    assert any(mr.lkey == lkey and mr.address <= address < mr.address + mr.length for mr in end.raw.pd.live)


async def test_the_key_to_invalidate_stands_where_every_driver_looks_for_it(end: End) -> None:
    end.connect()
    end.qp.post_send(Send(None, (memoryview(b"x"),), invalidate=0x1234, signaled=False))
    (sent,) = end.raw.sends
    assert (sent.opcode, sent.invalidate, sent.rkey) == (OP_SEND_WITH_INV, 0x1234, 0x1234)
    assert not sent.flags & SEND_INLINE, "siw ends the connection on such a request with inline data"


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


async def test_a_read_is_cut_to_what_the_device_places_and_completes_with_its_last_part(end: End) -> None:
    end.connect()
    view = mapping(3 * 4096)
    end.qp.post_send(RdmaRead("read", [view[0:10], view[20:40], view[50:60]], 1000, 7))
    assert [(sent.opcode, sent.remote, sent.elements[0][1]) for sent in end.raw.sends] == [
        (OP_RDMA_READ, 1000, 10),
        (OP_RDMA_READ, 1010, 20),
        (OP_RDMA_READ, 1030, 10),
    ]
    first, second, third = (sent.wr_id for sent in end.raw.sends)
    await end.complete(third, first)
    assert not end.log
    await end.complete(second)
    assert end.log == [WorkCompletion("read", WcStatus.SUCCESS, WcOpcode.RDMA_READ, 40)]


async def test_reads_beyond_the_agreed_depth_wait_and_hold_back_nothing_else(end: End) -> None:
    end.connect(read_depth=2)
    view = mapping(4096)
    for number in range(4):
        end.qp.post_send(RdmaRead(number, [view[number : number + 1]], number, 7))
    end.qp.post_send(Send("after", (memoryview(b"x"),)))
    assert [sent.opcode for sent in end.raw.sends] == [OP_RDMA_READ, OP_RDMA_READ, OP_SEND]
    await end.complete(end.raw.sends[0].wr_id)
    assert [sent.remote for sent in end.raw.sends if sent.opcode == OP_RDMA_READ] == [0, 1, 2]


async def test_reads_of_a_peer_that_serves_none_are_refused(end: End) -> None:
    end.connect(read_depth=0)
    with pytest.raises(LocalProtocolError, match="serves no RDMA Reads"):
        end.qp.post_send(RdmaRead(1, [mapping(10)], 0, 7))


async def test_small_pieces_that_could_only_be_registered_once_are_copied(end: End) -> None:
    end.connect()
    before = end.raw.pd.live.copy()
    end.qp.post_send(RdmaWrite(None, [memoryview(b"inquiry data")], 0, 7))
    assert end.raw.pd.live == before
    assert end.raw.sends[0].elements[0][1] == 12


async def test_receives_posted_early_reach_the_device_when_it_can_take_them(end: End) -> None:
    arena = end.pd.alloc_buffer(200)
    end.qp.post_recv(7, arena[:100])
    end.qp.post_recv(8, arena[100:])
    assert not end.raw.receives
    end.connect()
    assert [wr.elements[0][1] for wr in end.raw.receives] == [100, 100]
    await end.complete(end.raw.receives[0].wr_id, byte_len=33)
    assert end.log == [WorkCompletion(7, WcStatus.SUCCESS, WcOpcode.RECV, 33)]


async def test_a_receive_posted_again_is_not_built_again(end: End) -> None:
    slot = end.pd.alloc_buffer(100)
    end.connect()
    for number in range(3):
        end.qp.post_recv(number, slot)
        await end.complete(end.raw.receives[-1].wr_id, byte_len=1)
    assert len({id(wr) for wr in end.raw.receives}) == 1
    assert [each.wr_id for each in end.log] == [0, 1, 2]


async def test_the_key_that_a_peer_invalidated_is_told_whichever_flag_the_driver_sets(end: End) -> None:
    arena = end.pd.alloc_buffer(200)
    end.connect()
    for number, flags in enumerate((4, 8)):
        end.qp.post_recv(number, arena[100 * number : 100 * number + 100])
        await end.complete(end.raw.receives[-1].wr_id, byte_len=1, wc_flags=flags, imm_data=0x55)
    assert [each.invalidated_rkey for each in end.log] == [0x55, 0x55]


async def test_an_ordinary_region_is_registered_by_its_post_and_given_back_by_its_invalidation(end: End) -> None:
    end.connect()
    memory = mapping(3 * 4096)
    region = end.pd.alloc_mr(MrType.MEM_REG, 8)
    assert region.map_sg(SgList.of(memory[100:5000], writable=True)) == 1
    key = region.next_key(Access.REMOTE_READ)
    assert end.pd.valid_keys == 0
    end.qp.post_send(RegMr("reg", region, key, Access.REMOTE_READ, signaled=True))
    assert (region.rkey, region.valid, end.pd.valid_keys) == (key, True, 1)
    assert not end.raw.sends, "no request of the device does this"
    with pytest.raises(MemoryRegionError, match="invalidate it before"):
        region.map_sg(SgList.of(memory, writable=True))
    end.qp.post_send(LocalInv("inv", key, signaled=True))
    assert (region.valid, end.pd.valid_keys) == (False, 0)
    assert not end.log
    await turns()
    assert [(each.wr_id, each.opcode) for each in end.log] == [("reg", WcOpcode.REG_MR), ("inv", WcOpcode.LOCAL_INV)]
    with pytest.raises(MemoryRegionError, match="no valid region"):
        end.qp.post_send(LocalInv(None, key))


async def test_two_commands_over_one_buffer_share_a_registration_and_each_has_its_own_end(end: End) -> None:
    end.connect()
    memory = mapping(4096)
    keys = []
    for _ in range(2):
        region = end.pd.alloc_mr(MrType.MEM_REG, 1)
        region.map_sg(SgList.of(memory, writable=True))
        keys.append(region.next_key(Access.REMOTE_READ))
        end.qp.post_send(RegMr(None, region, keys[-1], Access.REMOTE_READ))
    assert keys[0] == keys[1]
    assert end.pd.valid_keys == 2
    end.qp.post_send(LocalInv(None, keys[0]))
    assert end.pd.valid_keys == 1
    end.qp.post_send(LocalInv(None, keys[0]))
    assert end.pd.valid_keys == 0


async def test_a_device_without_room_is_asked_again_after_idle_memory_went(
    end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = mapping(64 << 10), mapping(64 << 10)
    end.pd.cache.give(end.pd.take_remote(first, 1))
    monkeypatch.setattr(FakeContext, "memlock", FakeContext.pinned + 4096)
    end.pd.cache.give(end.pd.take_remote(second, 1))
    assert end.pd.cache.statistics.evictions == 1
    monkeypatch.setattr(FakeContext, "memlock", FakeContext.pinned)
    held = end.pd.take_remote(second, 1)
    with pytest.raises(ResourceError, match=r"RLIMIT_MEMLOCK|no memory left to pin"):
        end.pd.alloc_buffer(4096)
    end.pd.cache.give(held)


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


async def test_the_peers_orderly_end_flushes_everything_and_is_told_once(end: End) -> None:
    arena = end.pd.alloc_buffer(100)
    end.qp.post_recv(1, arena)
    end.connect()
    end.cm.deliver(cm_event(CmEventType.DISCONNECTED))
    end.cm.deliver(cm_event(CmEventType.DISCONNECTED))
    end.raw.complete(end.raw.receives[0].wr_id, 5)
    await turns()
    assert end.log == [WorkCompletion(1, WcStatus.WR_FLUSH_ERR, WcOpcode.RECV, 0)]
    assert end.ends == [None]
    assert end.channel.library.calls == ["disconnect", "destroy"]


async def test_an_end_in_the_middle_of_a_read_is_a_loss(end: End) -> None:
    end.connect()
    end.qp.post_send(RdmaRead("read", [mapping(10)], 0, 7))
    end.cm.deliver(cm_event(CmEventType.DISCONNECTED))
    end.raw.complete(end.raw.sends[0].wr_id, 5)
    await turns()
    assert [(each.wr_id, each.status) for each in end.log] == [("read", WcStatus.WR_FLUSH_ERR)]
    assert isinstance(end.ends[0], ConnectionLost)
    assert "middle of a transfer" in str(end.ends[0])


async def test_a_flush_of_what_was_sent_just_before_the_peers_end_is_a_loss_too(end: End) -> None:
    end.connect()
    end.qp.post_send(RdmaRead("read", [mapping(10)], 0, 7))
    await end.complete(end.raw.sends[0].wr_id, status=5)
    end.cm.deliver(cm_event(CmEventType.DISCONNECTED))
    await turns()
    assert "middle of a transfer" in str(end.ends[0])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (10, "refused access"),
        (12, "no longer answers"),
        (13, "no receive"),
        (1, "longer than the receive"),
        (3, "error"),
    ],
)
async def test_a_failed_request_ends_the_connection_in_one_sentence(end: End, status: int, words: str) -> None:
    end.connect()
    end.qp.post_send(Send("s", (memoryview(b"x"),)), Send("t", (memoryview(b"y"),)))
    await end.complete(end.raw.sends[0].wr_id, status=status)
    await end.complete(end.raw.sends[1].wr_id, status=5)
    assert [each.wr_id for each in end.log] == ["s", "t"]
    assert end.log[1].status is WcStatus.WR_FLUSH_ERR
    assert len(end.ends) == 1
    assert words in str(end.ends[0])


async def test_what_the_device_never_flushes_is_flushed_for_it(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iser.rdma.verbs.lifetime.FLUSH_TIMEOUT", 0.01)
    arena = end.pd.alloc_buffer(100)
    end.connect(read_depth=1)
    end.qp.post_recv(1, arena)
    view = mapping(100)
    for number in (2, 3):
        end.qp.post_send(RdmaRead(number, [view[:10]], 0, 7))
    end.qp.abort(IserError("enough"))
    assert not end.ends, "never from inside a call"
    end.qp.post_send(Send(4, (memoryview(b"x"),)))
    await end.qp.close(1)
    assert {each.wr_id for each in end.log} == {1, 2, 3, 4}
    assert {each.status for each in end.log} == {WcStatus.WR_FLUSH_ERR}
    assert [str(reason) for reason in end.ends] == ["enough"]


async def test_a_flush_that_nobody_explains_is_a_loss_after_a_moment(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iser.rdma.verbs.lifetime.GRACE", 0.01)
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.connect()
    await end.complete(end.raw.receives[0].wr_id, status=5)
    await turns(20)
    assert "the device ended the connection" in str(end.ends[0])


async def test_a_post_that_the_device_refuses_ends_the_connection(end: End) -> None:
    end.connect()
    end.raw.refuse = True
    end.qp.post_send(Send("s", (memoryview(b"x"),)))
    assert not end.ends
    await turns(10)
    await end.qp.close(1)
    assert [each.status for each in end.log] == [WcStatus.WR_FLUSH_ERR]
    assert len(end.ends) == 1


async def test_the_removal_of_the_device_ends_the_connection(end: End) -> None:
    end.connect()
    end.cm.deliver(cm_event(CmEventType.DEVICE_REMOVAL))
    await turns()
    assert "fake0 was removed" in str(end.ends[0])
    assert end.device.context.name, "what was made of it is still open"
    end.cq.close()
    end.pd.close()
    assert not end.device.context.name, "the system waits for us to close it"


async def test_what_is_posted_after_the_end_comes_back(end: End) -> None:
    end.connect()
    end.qp.abort(IserError("enough"))
    await turns()
    end.qp.post_send(Send("late", (memoryview(b"x"),)))
    end.qp.post_recv("later", end.pd.alloc_buffer(10))
    await turns()
    assert [(each.wr_id, each.status) for each in end.log] == [
        ("late", WcStatus.WR_FLUSH_ERR),
        ("later", WcStatus.WR_FLUSH_ERR),
    ]


async def test_a_responder_on_iwarp_sends_once_the_peer_has_spoken(
    device: VerbsDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "is_iwarp", True)
    end = End(device, QpCap(64, 8))
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.qp.prepare(end.cm, "peer:1")
    end.qp.attach(1, established=False)
    end.qp.post_send(Send(None, (memoryview(b"x"),)))
    assert not end.raw.sends
    await end.complete(end.raw.receives[0].wr_id, byte_len=5)
    assert len(end.raw.sends) == 1
    await end.qp.wait_established()
    await end.close()


async def test_a_responder_on_roce_tells_of_a_message_that_overtook_the_handshake(end: End) -> None:
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.qp.prepare(end.cm, "peer:1")
    end.qp.attach(1, established=False)
    await end.complete(end.raw.receives[0].wr_id, byte_len=5)
    assert end.channel.library.calls == ["notify"]


async def test_a_queue_pair_that_was_never_connected_goes_quietly(device: VerbsDevice) -> None:
    end = End(device, QpCap(64, 8))
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.qp.discard()
    assert end.raw.closed
    end.cq.close()
    end.pd.close()
    await turns()
    assert not end.ends
    assert not end.log


async def test_queues_that_the_device_cannot_have_are_refused_with_the_limit(device: VerbsDevice) -> None:
    pd, cq = device.alloc_pd(), device.create_cq(100, print)
    with pytest.raises(ResourceError, match="has 1 to 68 receives here"):
        device.create_qp(pd, cq, QpCap(10, 69))
    cq.close()
    pd.close()


async def test_lists_that_a_region_cannot_hold_are_refused(device: VerbsDevice) -> None:
    pd = device.alloc_pd()
    with pytest.raises(ResourceError, match="has 1 to 1"):
        pd.alloc_mr(MrType.SG_GAPS, 2)
    pd.close()
