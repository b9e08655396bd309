"""What comes in: placement, every check with its Terminate code, every split of the stream, garbage."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import TerminateError
from iser.rdma.api import Access, RdmaRead, Send, WcOpcode, WcStatus
from iser.rdma.softiwarp.rx import STAGING_SIZE, STEER_MIN
from iser.rdma.softiwarp.wire import (
    OP_READ_RESPONSE,
    OP_SEND,
    OP_SEND_INV,
    OP_SEND_SE,
    OP_SEND_SE_INV,
    OP_TERMINATE,
    OP_WRITE,
    READ_REQUEST,
)
from tests.rdma.softiwarp.support import Peer, buffer, fpdu, read_request, refuses, tagged, untagged, with_receive

IOVA = 0x7F0000001000


# Recorded from LIO over siw: an INQUIRY answer as a Write, then a Send with Invalidate.
INQUIRY_DATA = bytes.fromhex("000006025bb800024c494f2d4f52472052414d4449534b2d4d43502020202020342e3020")
WRITE = bytes.fromhex("0032c14000aabb0100007f0000001000") + INQUIRY_DATA
RESPONSE = bytes.fromhex(
    "10000000000000000000000000000000000000000000000000000000"
    "218000000000000000000000000000000000001100000000"
    "9e3dae4e0000000200000041000000000000000000000000"
)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 19, 20, 21, 1000])
def test_a_recorded_read_in_pieces_of_every_size(piece: int) -> None:
    peer, target = with_receive()
    data = buffer(64)
    mr = peer.region([data])
    stag = mr.rkey.to_bytes(4, "big")
    stream = WRITE[:4] + stag + WRITE[8:] + bytes(4)
    stream += bytes.fromhex("005e4144") + stag + bytes.fromhex("000000000000000100000000") + RESPONSE + bytes(4)
    for start in range(0, len(stream), piece):
        peer.give(stream[start : start + piece])
    assert data[:36] == INQUIRY_DATA
    assert target[:76] == RESPONSE
    (wc,) = peer.log
    assert wc == ("recv", WcStatus.SUCCESS, WcOpcode.RECV, 76, mr.rkey)
    assert not mr.valid


def test_a_recorded_frame_with_crc() -> None:
    peer = Peer(initiator=False, crc=True)
    peer.give(bytes.fromhex("000ec140000000010000000000000000ebd34c5f"))
    assert peer.core.error is None
    assert peer.core.rx.has_heard


@pytest.mark.parametrize(
    ("kind", "invalidates"), [(OP_SEND, False), (OP_SEND_SE, False), (OP_SEND_INV, True), (OP_SEND_SE_INV, True)]
)
def test_all_four_sends(kind: int, invalidates: bool) -> None:
    peer, target = with_receive()
    mr = peer.region([buffer(4)])
    peer.give(untagged(kind, b"hello", stag=mr.rkey))
    assert bytes(target[:5]) == b"hello"
    assert peer.log[0].invalidated_rkey == (mr.rkey if invalidates else 0)
    assert mr.valid is not invalidates


def test_a_send_in_segments_with_writes_in_between() -> None:
    peer, target = with_receive()
    data = buffer(8)
    mr = peer.region([data])
    peer.give(untagged(OP_SEND, b"abc", last=False))
    peer.give(tagged(OP_WRITE, mr.rkey, IOVA, b"1234", last=False))
    peer.give(untagged(OP_SEND, b"defgh", mo=3, last=False))
    peer.give(untagged(OP_SEND, b"", mo=8))
    peer.give(tagged(OP_WRITE, mr.rkey, IOVA + 4, b"5678"))
    assert bytes(target[:8]) == b"abcdefgh"
    assert bytes(data) == b"12345678"
    assert [wc.byte_len for wc in peer.log] == [8]


def test_an_empty_message_takes_a_receive() -> None:
    peer, _ = with_receive()
    peer.give(untagged(OP_SEND))
    assert peer.log == [("recv", WcStatus.SUCCESS, WcOpcode.RECV, 0, 0)]


def test_an_empty_write_is_not_checked() -> None:
    peer = Peer()
    peer.give(tagged(OP_WRITE, 0, 1 << 63))
    assert peer.core.error is None


@pytest.mark.parametrize("size", [STEER_MIN - 1, STEER_MIN, 20_000, 65_520])
@pytest.mark.parametrize("crc", [False, True])
@pytest.mark.parametrize("elements", [[65_521], [0, 1, 40_000, 3, 0, 30_000], [100] * 656])
def test_large_payload_goes_to_its_place_however_it_comes(size: int, crc: bool, elements: list[int]) -> None:
    peer = Peer(initiator=False, crc=crc)
    views = [buffer(length) for length in elements]
    mr = peer.region(views)
    data = random.Random(size).randbytes(size)
    target = buffer(10)
    peer.core.post_recv("recv", target)
    stream = tagged(OP_WRITE, mr.rkey, IOVA, data, crc=crc) + untagged(OP_SEND, b"done", crc=crc)
    rng = random.Random(1)
    position = 0
    while position < len(stream):
        step = rng.choice((1, 15, 16, 300, 5000, 70_000))
        peer.give(stream[position : position + step])
        position += step
    assert b"".join(views)[:size] == data
    assert not any(b"".join(views)[size:])
    assert bytes(target[:4]) == b"done"
    assert peer.core.error is None


def test_the_rest_of_a_large_payload_is_asked_for_in_place() -> None:
    peer = Peer(initiator=False)
    data = buffer(60_000)
    mr = peer.region([data])
    stream = tagged(OP_WRITE, mr.rkey, IOVA, bytes(60_000))
    peer.give(stream[:1016])
    first, *more = peer.core.get_buffers()
    assert first.obj is data.obj
    assert len(first) == 59_000
    assert len(more) == 1
    peer.give(stream[1016:])
    assert not peer.core.rx.mid_fpdu


# Checks, by the table of the reference: what is wrong, and the layer, error type and code that answer it.


def test_write_to_an_unknown_key() -> None:
    bad = tagged(OP_WRITE, 0xDEADBE00, 0x1000, b"abcd")
    refuses(Peer(), bad, 1, 1, 0x00, header=bad[2:16])


def test_write_with_key_zero() -> None:
    refuses(Peer(), tagged(OP_WRITE, 0, 0, b"a"), 1, 1, 0x00)


def test_write_with_a_stale_key() -> None:
    peer = Peer()
    mr = peer.region([buffer(8)])
    refuses(peer, tagged(OP_WRITE, mr.rkey - 1, IOVA, b"a"), 1, 1, 0x00)


def test_write_after_local_invalidation() -> None:
    peer = Peer()
    mr = peer.region([buffer(8)])
    mr.invalidate()
    refuses(peer, tagged(OP_WRITE, mr.rkey, IOVA, b"a"), 1, 1, 0x00)


def test_write_to_a_key_of_another_domain() -> None:
    peer = Peer()
    other = Peer(peer.device)
    mr = other.region([buffer(8)])
    refuses(peer, tagged(OP_WRITE, mr.rkey, IOVA, b"a"), 1, 1, 0x02)


@pytest.mark.parametrize(("to", "size"), [(IOVA - 1, 1), (IOVA + 8, 1), (IOVA + 1, 8), (0, 8)])
def test_write_out_of_bounds(to: int, size: int) -> None:
    peer = Peer()
    data = buffer(8)
    mr = peer.region([data])
    refuses(peer, tagged(OP_WRITE, mr.rkey, to, b"x" * size), 1, 1, 0x01)
    assert not any(data)


def test_write_that_wraps_the_address_space() -> None:
    peer = Peer()
    mr = peer.region([buffer(8)])
    refuses(peer, tagged(OP_WRITE, mr.rkey, (1 << 64) - 2, b"abcd"), 1, 1, 0x03)


def test_write_without_permission() -> None:
    peer = Peer()
    data = buffer(8)
    mr = peer.region([data], Access.REMOTE_READ)
    refuses(peer, tagged(OP_WRITE, mr.rkey, IOVA, b"a"), 0, 1, 0x02)
    assert not any(data)


@pytest.mark.parametrize("size", [100, 60_000])
@pytest.mark.parametrize("first", [64, 20_000])
def test_a_bad_large_write_is_refused_before_a_byte_is_placed(size: int, first: int) -> None:
    peer = Peer()
    data = buffer(size)
    mr = peer.region([data])
    bad = tagged(OP_WRITE, mr.rkey, IOVA + 1, b"\xff" * size)
    peer.give(bad[:first])
    refuses(peer, bad[first:], 1, 1, 0x01)
    assert not any(data)


def test_a_region_invalidated_under_a_large_write() -> None:
    peer = Peer()
    data = buffer(60_000)
    mr = peer.region([data])
    bad = tagged(OP_WRITE, mr.rkey, IOVA, b"\xff" * 60_000)
    peer.give(bad[:20_000])
    mr.invalidate()
    refuses(peer, bad[20_000:], 1, 1, 0x00)
    assert not any(data[20_000:])


def test_read_of_an_unknown_key() -> None:
    bad = read_request(0xDEADBE00, 0x3000, 0x40)
    refuses(Peer(), bad, 0, 1, 0x00, header=bad[2:48])


@pytest.mark.parametrize(("to", "size"), [(IOVA - 1, 1), (IOVA + 8, 1), (IOVA, 9), (IOVA, 0xFFFFFFFF)])
def test_read_out_of_bounds(to: int, size: int) -> None:
    peer = Peer()
    mr = peer.region([buffer(8)])
    refuses(peer, read_request(mr.rkey, to, size), 0, 1, 0x01)


def test_read_without_permission() -> None:
    peer = Peer()
    mr = peer.region([buffer(8)], Access.REMOTE_WRITE)
    refuses(peer, read_request(mr.rkey, IOVA, 8), 0, 1, 0x02)


def test_read_of_a_key_of_another_domain() -> None:
    peer = Peer()
    mr = Peer(peer.device).region([buffer(8)])
    refuses(peer, read_request(mr.rkey, IOVA, 8), 0, 1, 0x03)


def test_read_that_wraps_the_address_space() -> None:
    peer = Peer()
    mr = peer.region([buffer(8)])
    refuses(peer, read_request(mr.rkey, (1 << 64) - 2, 4), 0, 1, 0x04)


def test_read_whose_sink_wraps_the_address_space() -> None:
    peer = Peer()
    mr = peer.region([buffer(200_000)])
    sink = READ_REQUEST.pack(0x77, (1 << 64) - 70_000, 200_000, mr.rkey, mr.iova)
    refuses(peer, untagged(0x0141, sink, qn=1), 0, 1, 0x04)


def test_an_empty_read_is_answered_without_a_check_as_the_kernel_does() -> None:
    peer = Peer()
    peer.give(read_request(0, 0, 0))
    assert peer.take().hex() == "000ec14200000077000000000000200000000000"


def test_reads_are_answered_in_order() -> None:
    peer = Peer()
    mr = peer.region([memoryview(bytearray(b"abcdefgh"))])
    peer.give(read_request(mr.rkey, IOVA + 4, 4) + read_request(mr.rkey, IOVA, 3, msn=2))
    assert peer.take() == tagged(OP_READ_RESPONSE, 0x77, 0x2000, b"efgh") + tagged(
        OP_READ_RESPONSE, 0x77, 0x2000, b"abc"
    )


def test_more_reads_than_agreed() -> None:
    peer = Peer(ird=2)
    mr = peer.region([buffer(8)])
    peer.give(read_request(mr.rkey, IOVA, 8) + read_request(mr.rkey, IOVA, 8, msn=2))
    peer.take()
    peer.give(read_request(mr.rkey, IOVA, 8, msn=3) + read_request(mr.rkey, IOVA, 8, msn=4))
    assert peer.core.error is None
    refuses(peer, read_request(mr.rkey, IOVA, 8, msn=5), 0, 2, 0x07)


def test_a_read_when_none_is_agreed() -> None:
    refuses(Peer(ird=0), read_request(0, 0, 0), 0, 2, 0x07)


@pytest.mark.parametrize(
    ("bad", "codes"),
    [
        (read_request(0, 0, 0, msn=2), (1, 2, 0x03)),
        (read_request(0, 0, 0, mo=4), (1, 2, 0x04)),
        (read_request(0, 0, 0, qn=0), (1, 2, 0x01)),
        (untagged(0x0141, bytes(29), qn=1), (1, 2, 0x05)),
        (untagged(0x0141, bytes(28), qn=1, last=False), (1, 2, 0x05)),
        (untagged(0x0141, bytes(27), qn=1), (2, 0, 0x03)),
        (untagged(OP_SEND, b"a", msn=0), (1, 2, 0x03)),
        (untagged(OP_SEND, b"a", msn=2), (1, 2, 0x03)),
        (untagged(OP_SEND, b"a", mo=1), (1, 2, 0x04)),
        (untagged(OP_SEND, b"a", qn=1), (1, 2, 0x01)),
        (untagged(OP_SEND, b"a", qn=4), (1, 2, 0x01)),
        (untagged(OP_SEND, bytes(101)), (1, 2, 0x05)),
        (untagged(OP_SEND, b"a") + untagged(OP_SEND, b"a", msn=2), (1, 2, 0x02)),
        (untagged(OP_SEND, b"a", last=False) + untagged(OP_SEND, b"a", mo=2), (1, 2, 0x04)),
        (untagged(OP_SEND, b"a", last=False) + untagged(OP_SEND, b"a", msn=2, mo=1), (1, 2, 0x03)),
        (untagged(OP_SEND, b"a", last=False) + untagged(OP_SEND_SE, b"a", mo=1), (0, 2, 0x06)),
        (untagged(OP_SEND_INV, b"a", stag=0xDEADBE00), (0, 1, 0x00)),
        (untagged(OP_TERMINATE, bytes(4), qn=0), (1, 2, 0x01)),
        (untagged(OP_TERMINATE, bytes(4), qn=2, msn=2), (1, 2, 0x03)),
        (tagged(OP_READ_RESPONSE, 1, 0, b"a"), (0, 2, 0x06)),
        (fpdu(b""), (2, 0, 0x03)),
        (fpdu(b"\xc1"), (2, 0, 0x03)),
        (fpdu(bytes.fromhex("c140") + bytes(11)), (2, 0, 0x03)),
        (fpdu(bytes.fromhex("4143") + bytes(15)), (2, 0, 0x03)),
        (fpdu(bytes.fromhex("4141") + bytes(15)), (2, 0, 0x03)),
        (tagged(OP_WRITE & ~0x0300, 1, 0, b"a"), (1, 1, 0x04)),
        (tagged(OP_WRITE | 0x0200, 1, 0, b"a"), (1, 1, 0x04)),
        (untagged(OP_SEND | 0x0200, b"a"), (1, 2, 0x06)),
        (untagged(OP_SEND & ~0x00C0, b"a"), (0, 2, 0x05)),
        (tagged(OP_WRITE | 0x0080, 1, 0, b"a"), (0, 2, 0x05)),
        (untagged(0x0148, bytes(8)), (0, 2, 0x06)),
        (untagged(0x014F, bytes(8)), (0, 2, 0x06)),
        (untagged(0x0140, bytes(8)), (0, 2, 0x06)),  # a Write in an untagged segment
        (tagged(0x8143, 0, 0, bytes(8)), (0, 2, 0x06)),  # a Send in a tagged one
    ],
)
def test_checks(bad: bytes, codes: tuple[int, int, int]) -> None:
    peer, _ = with_receive()
    refuses(peer, bad, *codes)


def test_a_send_that_is_too_long_fails_its_receive() -> None:
    peer, _ = with_receive(4)
    peer.core.post_recv("next", buffer(8))
    refuses(peer, untagged(OP_SEND, b"abcde"), 1, 2, 0x05)
    assert peer.statuses() == [("recv", WcStatus.LOC_LEN_ERR), ("next", WcStatus.WR_FLUSH_ERR)]


def test_invalidation_of_a_key_of_another_domain() -> None:
    peer, _ = with_receive()
    mr = Peer(peer.device).region([buffer(8)])
    refuses(peer, untagged(OP_SEND_INV, b"a", stag=mr.rkey), 0, 1, 0x03)
    assert mr.valid
    assert peer.statuses() == [("recv", WcStatus.WR_FLUSH_ERR)]


def test_reserved_bits_are_not_checked() -> None:
    peer, target = with_receive()
    good = bytearray(untagged(OP_SEND, b"hello"))
    good[2] |= 0x3C
    good[3] |= 0x30
    peer.give(bytes(good))
    assert bytes(target[:5]) == b"hello"


def reading(size: int, count: int = 1) -> tuple[Peer, list[memoryview], list[int]]:
    """A core with reads on the wire; their buffers and sink keys."""
    peer = Peer()
    targets = [buffer(size) for _ in range(count)]
    for target in targets:
        peer.core.post_send([RdmaRead("read", [target[: size // 2], target[size // 2 :]], 0x5000, 0x123)])
    stream = peer.take()
    return peer, targets, [int.from_bytes(stream[i * 52 + 20 : i * 52 + 24], "big") for i in range(count)]


def test_the_read_request_says_where_and_how_much() -> None:
    peer = Peer()
    peer.core.post_send([RdmaRead("read", [buffer(0x200)], 0x7F0000002000, 0xAABB02)])
    stream = peer.take().hex()
    assert stream[:40] == "002e4141000000000000000100000001" + "00000000"
    assert stream[48:] == "0000000000000000" + "00000200" + "00aabb02" + "00007f0000002000" + "00000000"


@pytest.mark.parametrize("size", [1, 512, 40_000])
def test_read_responses_in_segments(size: int) -> None:
    peer, targets, stags = reading(size, 2)
    data = [random.Random(i).randbytes(size) for i in range(2)]
    for stag, content in zip(stags, data, strict=True):
        half = size // 2
        peer.give(tagged(OP_READ_RESPONSE, stag, 0, content[:half], last=False))
        peer.give(tagged(OP_READ_RESPONSE, stag, half, content[half:]))
    assert [bytes(target) for target in targets] == data
    assert peer.log == [("read", WcStatus.SUCCESS, WcOpcode.RDMA_READ, size, 0)] * 2


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        (lambda stags: tagged(OP_READ_RESPONSE, stags[1], 0, bytes(8)), (1, 1, 0x00)),
        (lambda stags: tagged(OP_READ_RESPONSE, stags[0], 4, bytes(4)), (1, 1, 0x01)),
        (lambda stags: tagged(OP_READ_RESPONSE, stags[0], 0, bytes(9)), (1, 1, 0x01)),
        (lambda stags: tagged(OP_READ_RESPONSE, stags[0], 0, bytes(7)), (1, 1, 0x01)),
        (
            lambda stags: (
                tagged(OP_READ_RESPONSE, stags[0], 0, bytes(4), last=False)
                + tagged(OP_READ_RESPONSE, stags[0], 5, bytes(3))
            ),
            (1, 1, 0x01),
        ),
        (lambda stags: tagged(OP_WRITE, stags[0], 0, bytes(8)), (1, 1, 0x00)),
    ],
)
def test_read_responses_that_do_not_fit(answer: Callable[[list[int]], bytes], codes: tuple[int, int, int]) -> None:
    peer, _, stags = reading(8, 2)
    refuses(peer, answer(stags), *codes)
    assert [status for _, status in peer.statuses()] == [WcStatus.WR_FLUSH_ERR] * 2


def test_a_wrong_crc_ends_the_connection_before_anything_is_placed() -> None:
    peer = Peer(initiator=False, crc=True)
    data = buffer(8)
    mr = peer.region([data])
    bad = bytearray(tagged(OP_WRITE, mr.rkey, IOVA, b"abcd", crc=True))
    bad[-6] ^= 1
    refuses(peer, bytes(bad), 2, 0, 0x02, header=b"")
    assert not any(data)


def test_a_wrong_crc_of_a_large_payload_completes_nothing() -> None:
    peer = Peer(crc=True)
    target = buffer(60_000)
    peer.core.post_send([RdmaRead("read", [target], 0, 1)])
    stag = int.from_bytes(peer.take()[20:24], "big")
    bad = bytearray(tagged(OP_READ_RESPONSE, stag, 0, bytes(60_000), crc=True))
    bad[30_000] ^= 1
    peer.give(bytes(bad[:1000]))
    refuses(peer, bytes(bad[1000:]), 2, 0, 0x02)
    assert peer.statuses() == [("read", WcStatus.WR_FLUSH_ERR)]


def test_others_may_write_where_a_large_payload_is_being_received() -> None:
    """Two initiators that write one block at once; the CRC is of what came."""
    peer = Peer(initiator=False, crc=True)
    data = buffer(60_000)
    mr = peer.region([data[:30_000], data[30_000:]])
    stream = tagged(OP_WRITE, mr.rkey, IOVA, b"1" * 60_000, crc=True)
    for start in range(0, len(stream), 20_000):
        peer.give(stream[start : start + 20_000])
        data[:20_000] = b"2" * 20_000
    assert peer.core.error is None
    assert data == b"2" * 20_000 + b"1" * 40_000


def test_the_first_frame_lets_us_send_though_a_large_one_comes_right_behind_it() -> None:
    peer = Peer(initiator=False)
    mr = peer.region([buffer(60_000)])
    peer.core.post_send([Send("send", [])])
    peer.give(tagged(OP_WRITE, 0, 0) + tagged(OP_WRITE, mr.rkey, IOVA, bytes(60_000))[:30_000])
    assert peer.take()


def test_the_beginning_of_a_large_first_frame_does_not_let_us_send() -> None:
    peer = Peer(initiator=False)
    mr = peer.region([buffer(60_000)])
    peer.core.post_send([Send("send", [])])
    stream = tagged(OP_WRITE, mr.rkey, IOVA, bytes(60_000))
    peer.give(stream[:30_000])
    assert not peer.take()
    peer.give(stream[30_000:])
    assert peer.take()


@pytest.mark.parametrize("crc_field", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_the_crc_field_is_not_looked_at_when_crc_is_off(crc_field: bytes) -> None:
    peer, target = with_receive()
    peer.give(untagged(OP_SEND, b"hell")[:-4] + crc_field)
    assert bytes(target[:4]) == b"hell"


def test_a_terminate_from_the_kernel_ends_the_connection() -> None:
    peer = Peer()
    peer.core.post_send([Send("send", [memoryview(bytes(100))])])
    peer.give(
        bytes.fromhex("0026414700000000000000020000000100000000")
        + bytes.fromhex("110003000004c140deadbe000000000000001000")
        + bytes(4)
    )
    error = peer.core.error
    assert isinstance(error, TerminateError)
    assert (error.layer, error.etype, error.code) == (1, 1, 0)
    assert peer.statuses() == [("send", WcStatus.WR_FLUSH_ERR)]
    assert peer.take() == b""


def test_nothing_is_taken_after_an_error() -> None:
    peer, target = with_receive(count=2)
    refuses(peer, untagged(OP_SEND, b"a", msn=9) + untagged(OP_SEND, b"hello"), 1, 2, 0x03)
    peer.give(untagged(OP_SEND, b"hello"))
    assert not any(target)
    assert peer.take() == b""


def test_the_staging_buffer_never_runs_out() -> None:
    peer, _ = with_receive(100, count=1)
    mr = peer.region([buffer(STEER_MIN)])
    one = tagged(OP_WRITE, mr.rkey, IOVA, bytes(STEER_MIN - 100))
    stream = one * 100
    sent = 0
    while sent < len(stream):
        space = peer.core.get_buffers()
        assert sum(map(len, space)) > 0
        assert sum(map(len, space)) <= STAGING_SIZE
        step = min(len(space[0]), 61_003)
        peer.give(stream[sent : sent + step])
        sent += step
    assert peer.core.error is None


def test_numbers_wrap() -> None:
    peer, _ = with_receive(count=2)
    peer.core.rx._msn = 0xFFFFFFFF
    peer.give(untagged(OP_SEND, b"a", msn=0xFFFFFFFF) + untagged(OP_SEND, b"b", msn=0))
    assert len(peer.log) == 2


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=6), st.booleans(), st.integers(1, 64))
def test_random_bytes_end_in_silence_or_in_a_terminate(parts: list[bytes], framed: bool, piece: int) -> None:
    peer, _ = with_receive(30, count=3)
    mr = peer.region([buffer(64)])
    stream = b"".join(fpdu(part) if framed else part for part in parts)
    for start in range(0, len(stream), piece):
        peer.give(stream[start : start + piece])
    assert peer.core.error is None or isinstance(peer.core.error, TerminateError)
    assert mr.valid
    peer.take()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255), st.integers(1, 90))
def test_a_valid_stream_with_one_byte_changed(position: int, value: int, piece: int) -> None:
    """It is taken, refused with a Terminate, or waits for more; nothing else."""
    peer, _ = with_receive(60, count=20)
    mr = peer.region([buffer(64)])
    frames = [
        untagged(OP_SEND, b"hello"),
        tagged(OP_WRITE, mr.rkey, IOVA + 3, b"data"),
        read_request(mr.rkey, IOVA, 64),
        untagged(OP_SEND_INV, b"bye", msn=2, stag=mr.rkey),
    ]
    stream = bytearray(b"".join(frames))
    stream[position % len(stream)] = value
    for start in range(0, len(stream), piece):
        peer.give(bytes(stream[start : start + piece]))
    assert peer.core.error is None or isinstance(peer.core.error, TerminateError)
    peer.take()


@pytest.mark.parametrize("segment", [65520, 65536 - 20, 65000, 40000])
@pytest.mark.parametrize("crc", [False, True])
def test_long_transfers_are_received_in_place_whatever_the_segments(segment: int, crc: bool) -> None:
    peer = Peer(initiator=False, crc=crc)
    size = 1 << 20
    data = buffer(size)
    key = peer.region([data]).rkey
    source = random.Random(1).randbytes(size)
    one = b"".join(
        tagged(OP_WRITE, key, IOVA + start, source[start : start + segment], last=start + segment >= size, crc=crc)
        for start in range(0, size, segment)
    )
    rx = peer.core.rx
    stream, at, staged = memoryview(one * 4), 0, 0
    while at < len(stream):
        views = rx.get_buffers()
        count = 0
        for view in views:
            part = min(len(view), len(stream) - at)
            view[:part] = stream[at : at + part]
            # Staging is where the memory is not the region's.
            staged += part if view.obj is not data.obj else 0
            at += part
            count += part
        rx.received(count)
    assert data == source
    assert rx.writes == 4
    # The beginning, and a little around the end of each transfer.
    assert staged < len(stream) // 10
