"""Two cores joined in memory against a model of plain bytes; credits, order, errors and the end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import LocalProtocolError, MemoryRegionError, ResourceError, TerminateError, UsageError
from iser.rdma.api import (
    Access,
    LocalInv,
    MrType,
    QpCap,
    RdmaRead,
    RdmaWrite,
    RegMr,
    Send,
    WcOpcode,
    WcStatus,
    WorkRequest,
    inc_rkey,
)
from iser.rdma.softiwarp.core import MAX_READ
from iser.rdma.softiwarp.tx import TX_WINDOW
from tests.rdma.softiwarp.support import ALL, Elements, Peer, buffer, pump, read_request, untagged

SIZE = 70_000


def joined(*, crc: bool = False, segment: int = 0xFFFF, depth: int = 16) -> tuple[Peer, Peer]:
    """An initiator and a responder that may send."""
    a = Peer(crc=crc, segment=segment, depth=depth)
    b = Peer(initiator=False, crc=crc, segment=segment, depth=depth)
    b.core.tx.held = False
    return a, b


def cut(total: int, rng: random.Random) -> list[int]:
    """``total`` in random parts, some of them 0."""
    parts = []
    while total:
        parts.append(rng.choice((0, 1, 3, rng.randint(1, total), total)))
        parts[-1] = min(parts[-1], total)
        total -= parts[-1]
    return parts or [0]


def views_of(data: bytearray, rng: random.Random) -> list[memoryview]:
    views, start = [], 0
    for part in cut(len(data), rng):
        views.append(memoryview(data)[start : start + part])
        start += part
    return views


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([130, 1434, 9000, 0xFFFF]), st.integers(1, 12))
def test_random_operations_do_what_a_plain_copy_does(seed: int, crc: bool, segment: int, count: int) -> None:
    """Writes, reads, sends with and without invalidation, in both directions, over a stream in random pieces."""
    rng = random.Random(seed)
    ends = joined(crc=crc, segment=segment, depth=rng.choice((1, 2, 16)))
    stores = [bytearray(rng.randbytes(SIZE)) for _ in ends]
    models = [bytearray(store) for store in stores]
    regions = [end.region(views_of(store, rng)) for end, store in zip(ends, stores, strict=True)]
    inboxes: list[list[memoryview]] = [[], []]
    expected: list[list[bytes]] = [[], []]
    checks: list[tuple[memoryview, bytes]] = []
    pieces = rng.choice((lambda left: 1 if left < 3000 else rng.randint(1, left), lambda left: rng.randint(1, left)))
    for number in range(count):
        here = rng.randrange(2)
        there = 1 - here
        offset = rng.randrange(SIZE)
        size = rng.choice((0, 1, 100, rng.randint(0, SIZE)))
        size = min(size, SIZE - offset)
        data = bytearray(rng.randbytes(size))
        wr: WorkRequest
        kind = rng.randrange(3)
        if kind == 0:
            wr = RdmaWrite(number, views_of(data, rng), regions[there].iova + offset, regions[there].rkey, True)
            models[there][offset : offset + size] = data
        elif kind == 1:
            wr = RdmaRead(number, views_of(data, rng), regions[there].iova + offset, regions[there].rkey)
            checks.append((memoryview(data), bytes(models[there][offset : offset + size])))
        else:
            inbox = buffer(size + rng.randrange(3))
            inboxes[there].append(inbox)
            ends[there].core.post_recv(len(inboxes[there]) - 1, inbox)
            expected[there].append(bytes(data))
            wr = Send(number, views_of(data, rng))
        ends[here].core.post_send([wr])
        if kind == 1 or rng.random() < 0.5:
            pump(*ends, pieces)  # a read after an unrelated write of the peer has no order
    pump(*ends, pieces)
    assert [end.core.error for end in ends] == [None, None]
    assert stores == models
    for sink, content in checks:
        assert sink == content
    for end, places, contents in zip(ends, inboxes, expected, strict=True):
        received = [wc for wc in end.log if wc.opcode is WcOpcode.RECV]
        assert [wc.wr_id for wc in received] == list(range(len(contents)))
        for wc, place, content in zip(received, places, contents, strict=True):
            assert bytes(place[: wc.byte_len]) == content
        assert all(wc.status is WcStatus.SUCCESS for wc in end.log)
    assert sum(len(end.log) for end in ends) == count + sum(map(len, expected))


def test_a_stream_of_single_bytes() -> None:
    a, b = joined(crc=True, segment=130)
    store = bytearray(1000)
    mr = b.region([memoryview(store)[:333], memoryview(store)[333:]])
    back = buffer(1000)
    data = memoryview(random.Random(3).randbytes(1000))
    b.core.post_recv("recv", buffer(300))
    a.core.post_send([RdmaWrite(1, [data], mr.iova, mr.rkey), Send(2, [data[:300]])])
    pump(a, b, lambda left: 1)
    a.core.post_send([RdmaRead(3, [back], mr.iova, mr.rkey)])
    pump(a, b, lambda left: 1)
    assert store == data == back


def test_the_responder_sends_nothing_before_it_heard_the_initiator() -> None:
    a, b = Peer(), Peer(initiator=False)
    for peer in (a, b):
        peer.core.post_recv("recv", buffer(8))
    b.core.post_send([Send("early", [memoryview(b"b")])])
    assert b.take() == b""
    a.core.post_send([Send("first", [memoryview(b"a")])])
    b.give(a.take())
    assert b.take() == untagged(0x0143, b"b")


def test_reads_beyond_the_agreed_depth_wait_and_hold_back_nothing_else() -> None:
    a, b = joined(depth=2)
    mr = b.region([memoryview(bytearray(b"abcdefgh"))])
    b.core.post_recv("recv", buffer(8))
    targets = [buffer(2) for _ in range(4)]
    for i, target in enumerate(targets):
        a.core.post_send([RdmaRead(i, [target], mr.iova + 2 * i, mr.rkey)])
    a.core.post_send([Send("send", [memoryview(b"x")])])
    b.give(a.take())
    assert b.statuses() == [("recv", WcStatus.SUCCESS)]
    assert len(b.take()) == 2 * 24
    assert a.core.reads_outstanding == 4
    b.core.abort(None)


def test_all_waiting_reads_are_done_in_order() -> None:
    a, b = joined(depth=2)
    mr = b.region([memoryview(bytearray(b"abcdefgh"))])
    targets = [buffer(2) for _ in range(4)]
    for i, target in enumerate(targets):
        a.core.post_send([RdmaRead(i, [target], mr.iova + 2 * i, mr.rkey)])
    pump(a, b)
    assert [bytes(target) for target in targets] == [b"ab", b"cd", b"ef", b"gh"]
    assert [wc.wr_id for wc in a.log] == [0, 1, 2, 3]
    assert a.core.reads_outstanding == 0


def test_many_reads_reuse_the_sink_keys() -> None:
    a, b = joined(depth=1)
    mr = b.region([buffer(4)])
    for i in range(600):
        a.core.post_send([RdmaRead(i, [buffer(4)], mr.iova, mr.rkey)])
        if i % 100 == 0:
            pump(a, b)
    pump(a, b)
    assert len(a.log) == 600


def test_a_peer_that_serves_no_reads() -> None:
    peer = Peer(depth=0)
    with pytest.raises(LocalProtocolError, match="serves no RDMA Reads"):
        peer.core.post_send([RdmaRead(1, [buffer(1)], 0, 1)])


@pytest.mark.parametrize("size", [8, 200_000])
@pytest.mark.parametrize("kind", [RdmaRead, RdmaWrite])
def test_an_address_of_the_peer_that_runs_over_the_end_ends_in_a_terminate(
    size: int, kind: type[RdmaRead] | type[RdmaWrite]
) -> None:
    for remote_addr in ((1 << 64) - 4, 1 << 64):
        a, b = joined()
        mr = b.region([buffer(4)])
        a.core.post_send([kind("bad", [buffer(size)], remote_addr, mr.rkey)])
        pump(a, b)
        assert isinstance(a.core.error, TerminateError)
        assert kind is RdmaWrite or a.statuses() == [("bad", WcStatus.WR_FLUSH_ERR)]


def test_a_read_has_a_largest_size() -> None:
    peer = Peer()
    part = buffer(1 << 16)
    with pytest.raises(UsageError, match=str(MAX_READ)):
        peer.core.post_send([RdmaRead("big", [part] * (1 << 16), 0, 1)])


def test_unsignaled_requests_complete_in_silence_and_fail_aloud() -> None:
    a, b = joined()
    b.core.post_recv("recv", buffer(8))
    a.core.post_send([Send("quiet", [memoryview(b"a")], signaled=False), Send("loud", [memoryview(b"b")])])
    a.take()
    assert a.statuses() == [("loud", WcStatus.SUCCESS)]
    a.core.post_send([Send("lost", [memoryview(b"a")], signaled=False)])
    a.core.abort(None)
    a.collect()
    assert a.statuses()[1:] == [("lost", WcStatus.WR_FLUSH_ERR)]


def test_everything_posted_is_flushed_once() -> None:
    a, b = joined(depth=1)
    mr = b.region([buffer(8)])
    for i in range(3):
        a.core.post_recv(("recv", i), buffer(8))
    a.core.post_send([RdmaRead("wire", [buffer(4)], mr.iova, mr.rkey)])
    a.take()
    a.give(untagged(0x0143, b"half", last=False))
    a.core.post_send(
        [
            RdmaRead("waits", [buffer(4)], mr.iova, mr.rkey),
            Send("send", [memoryview(b"a")]),
            RdmaWrite("write", [memoryview(b"a")], mr.iova, mr.rkey),
        ]
    )
    a.core.abort(None)
    a.core.abort(None)
    a.collect()
    flushed = a.statuses()
    assert {status for _, status in flushed} == {WcStatus.WR_FLUSH_ERR}
    assert sorted(str(wr_id) for wr_id, _ in flushed) == sorted(
        ["wire", "waits", "send", "write", "('recv', 0)", "('recv', 1)", "('recv', 2)"]
    )
    assert not a.take()


def test_posts_after_the_end_are_flushed() -> None:
    peer = Peer()
    peer.core.abort(None)
    peer.core.flush_posted([Send("late", []), LocalInv("inv", 1)])
    peer.core.flush_receive("recv")
    peer.collect()
    assert [wc.opcode for wc in peer.log] == [WcOpcode.SEND, WcOpcode.LOCAL_INV, WcOpcode.RECV]
    assert {wc.status for wc in peer.log} == {WcStatus.WR_FLUSH_ERR}


def test_depths_are_limited() -> None:
    peer = Peer(cap=QpCap(2, 1))
    peer.core.post_recv(1, buffer(1))
    with pytest.raises(ResourceError, match="max_recv_wr"):
        peer.core.post_recv(2, buffer(1))
    peer.core.post_send([Send(1, []), Send(2, [])])
    with pytest.raises(ResourceError, match="max_send_wr"):
        peer.core.post_send([Send(3, [])])
    peer.take()
    peer.core.post_send([Send(3, []), Send(4, [])])


def test_buffers_that_are_written_must_be_writable() -> None:
    peer = Peer()
    with pytest.raises(MemoryRegionError, match="writable"):
        peer.core.post_recv(1, memoryview(b"fixed"))
    with pytest.raises(MemoryRegionError, match="writable"):
        peer.core.post_send([RdmaRead(1, [memoryview(b"fixed")], 0, 1)])


def test_registration_and_invalidation_are_requests_like_others() -> None:
    peer = Peer()
    mr = peer.pd.alloc_mr(MrType.SG_GAPS, 4)
    mr.map_sg(Elements([buffer(8)]))
    key = inc_rkey(mr.rkey)
    peer.core.post_send([RegMr("reg", mr, key, ALL, signaled=True), Send("send", []), LocalInv("inv", key, True)])
    assert not mr.valid
    peer.take()
    assert [(wc.wr_id, wc.opcode) for wc in peer.log] == [
        ("reg", WcOpcode.REG_MR),
        ("send", WcOpcode.SEND),
        ("inv", WcOpcode.LOCAL_INV),
    ]


def test_a_lone_local_request_completes() -> None:
    peer = Peer()
    mr = peer.region([buffer(8)])
    peer.core.post_send([LocalInv("inv", mr.rkey, signaled=True)])
    peer.take()
    assert peer.statuses() == [("inv", WcStatus.SUCCESS)]


@pytest.mark.parametrize("rkey_step", [1, 0x100])
def test_only_a_valid_key_can_be_invalidated(rkey_step: int) -> None:
    peer = Peer()
    mr = peer.region([buffer(8)])
    with pytest.raises(MemoryRegionError, match="no valid region"):
        peer.core.post_send([LocalInv("inv", mr.rkey + rkey_step)])
    other = Peer(peer.device)
    with pytest.raises(MemoryRegionError, match="no valid region"):
        other.core.post_send([LocalInv("inv", mr.rkey)])
    peer.core.post_send([LocalInv("inv", mr.rkey)])
    with pytest.raises(MemoryRegionError, match="no valid region"):
        peer.core.post_send([LocalInv("inv", mr.rkey)])


def test_a_region_of_another_domain_cannot_be_registered() -> None:
    peer = Peer()
    mr = Peer(peer.device).pd.alloc_mr(MrType.SG_GAPS, 1)
    mr.map_sg(Elements([buffer(1)]))
    with pytest.raises(MemoryRegionError, match="another protection domain"):
        peer.core.post_send([RegMr("reg", mr, mr.rkey, Access.REMOTE_READ)])


def test_a_signaled_invalidation_waits_for_what_the_peer_is_still_reading() -> None:
    peer = Peer()
    mr = peer.region([buffer(8000)])
    peer.give(read_request(mr.rkey, mr.iova, 8000))
    total = sum(map(len, peer.core.outgoing()))
    peer.core.sent(100)
    peer.core.post_send([LocalInv("inv", mr.rkey, signaled=True)])
    peer.core.outgoing()
    peer.core.sent(total - 101)
    peer.collect()
    assert not peer.log
    peer.take()
    assert peer.statuses() == [("inv", WcStatus.SUCCESS)]
    assert peer.core.error is None


def test_an_invalidated_source_ends_the_read_with_a_terminate() -> None:
    peer = Peer()
    size = 4 * TX_WINDOW
    mr = peer.region([buffer(size)])
    peer.give(read_request(mr.rkey, mr.iova, size))
    total = sum(map(len, peer.core.outgoing()))
    assert total < size
    peer.core.sent(total)
    mr.invalidate()
    peer.take()
    error = peer.core.error
    assert isinstance(error, TerminateError)
    assert (error.layer, error.etype, error.code) == (0, 1, 0)


def test_the_key_of_the_reads_is_given_back() -> None:
    peer = Peer()
    before = len(peer.device.keys.regions)
    other = Peer(peer.device)
    other.core.close()
    other.core.close()
    assert len(peer.device.keys.regions) == before
