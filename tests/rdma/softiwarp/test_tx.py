"""What goes out: frames as the kernel's siw and LIO send and accept them, cuts, gather lists, partial sends."""

from __future__ import annotations

import random

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.rdma.api import RdmaWrite, Send
from iser.rdma.softiwarp.tx import GATHER_LIMIT, GATHER_ROOM, GATHERED_MAX, INLINE_MAX, TX_WINDOW, Transmitter
from iser.rdma.softiwarp.wire import CTRL_LAST, TAGGED, UNTAGGED, build_terminate, fault, fpdu_size


def transmitter(*, crc: bool = False, segment: int = 0xFFFF) -> Transmitter:
    tx = Transmitter()
    tx.crc = crc
    tx.segment = segment
    return tx


def drain(tx: Transmitter) -> bytes:
    out = bytearray()
    while iov := tx.outgoing():
        data = b"".join(iov)
        tx.sent(len(data))
        out += data
    return bytes(out)


def view(text: str) -> list[memoryview]:
    return [memoryview(bytes.fromhex(text))]


def headers(stream: bytes) -> list[tuple[int, ...]]:
    """The header fields of each FPDU of a stream."""
    found = []
    while stream:
        wire = TAGGED if stream[2] & 0x80 else UNTAGGED
        found.append(wire.unpack_from(stream))
        stream = stream[fpdu_size(found[-1][0]) :]
    return found


def test_a_send_as_recorded() -> None:
    payload = (
        "1400000000000000000000000000000000aabb0100007f0000001000"
        "01c100000000000000000000000000000000001100000024000000019e3dae4e12000000240000000000000000000000"
    )
    tx = transmitter()
    tx.msn_send = 2
    tx.queue.append(Send(None, view(payload)))
    out = drain(tx)
    assert out.hex() == "005e4143000000000000000000000002" + "00000000" + payload + "00000000"


def test_a_send_with_crc_as_recorded() -> None:
    payload = (
        "1400000000000000000000000000000000aabb0100007f0000001000"
        "01c1000000000000000000000000000000000011000000240000000182ee8b2a12000000240000000000000000000000"
    )
    tx = transmitter(crc=True)
    tx.msn_send = 2
    tx.queue.append(Send(None, view(payload)))
    assert drain(tx).hex().endswith(payload + "49628206")


def test_a_send_with_invalidate_as_recorded() -> None:
    payload = (
        "10000000000000000000000000000000000000000000000000000000"
        "218000000000000000000000000000000000001100000000"
        "9e3dae4e0000000200000041000000000000000000000000"
    )
    tx = transmitter()
    tx.msn_send = 2
    tx.queue.append(Send(None, view(payload), invalidate=0x00AABB01))
    assert drain(tx).hex() == "005e414400aabb01000000000000000200000000" + payload + "00000000"


@pytest.mark.parametrize(("crc", "trailer"), [(False, "00000000"), (True, "9bea25b2")])
def test_a_write_as_recorded(crc: bool, trailer: str) -> None:
    payload = "000006025bb800024c494f2d4f52472052414d4449534b2d4d43502020202020342e3020"
    tx = transmitter(crc=crc)
    tx.queue.append(RdmaWrite(None, view(payload), 0x7F0000001000, 0xAABB01))
    assert drain(tx).hex() == "0032c14000aabb0100007f0000001000" + payload + trailer


def test_an_empty_write_with_crc_as_recorded() -> None:
    tx = transmitter(crc=True)
    tx.queue.append(RdmaWrite(None, (), 0, 1))
    assert drain(tx).hex() == "000ec140000000010000000000000000ebd34c5f"


def test_a_terminate_with_crc_as_recorded() -> None:
    """The bytes are siw's, with its mirrored control word."""
    tx = transmitter(crc=True)
    tx.cut(bytes.fromhex("02020000"))
    assert drain(tx).hex() == "00164147000000000000000200000001000000000202000075d367ed"


@pytest.mark.parametrize("size", [0, 1, 2, 3, INLINE_MAX, INLINE_MAX + 1, 5000])
@pytest.mark.parametrize("crc", [False, True])
def test_numbers_and_offsets_of_cut_messages(size: int, crc: bool) -> None:
    data = memoryview(bytes(i & 0xFF for i in range(size)))
    tx = transmitter(segment=1434, crc=crc)
    tx.queue.append(Send("a", [data]))
    tx.queue.append(RdmaWrite("b", [data], 0x1000, 0x55))
    tx.queue.append(Send("c", [data], invalidate=7))
    stream = drain(tx)
    found = headers(stream)
    pieces = max(1, -(-size // 1416))
    sends = [each for each in found if len(each) == 6]
    assert [each[4] for each in sends] == [1] * pieces + [2] * pieces
    assert [each[5] for each in sends[:pieces]] == [1416 * i for i in range(pieces)]
    writes = [each for each in found if len(each) == 4]
    assert sum(each[0] - 14 for each in writes) == size
    assert [each[3] for each in writes] == [0x1000 + 1420 * i for i in range(len(writes))]
    last = [bool(each[1] & CTRL_LAST) for each in found]
    assert last.count(True) == 3
    assert last[-1]


def test_full_segments_need_no_pad_and_stay_within_the_limit() -> None:
    data = memoryview(bytes(200_000))
    for segment in (1434, 1435, 1436, 1437, 0xFFFF):
        tx = transmitter(segment=segment)
        tx.queue.append(RdmaWrite(None, [data], 0, 1))
        sizes = [each[0] for each in headers(drain(tx))]
        assert max(sizes) <= segment
        assert all((size + 2) % 4 == 0 for size in sizes[:-1])


def test_payload_in_large_pieces_is_not_copied_and_in_small_ones_it_is() -> None:
    large, small = memoryview(bytes(8192)), memoryview(bytes(64))
    tx = transmitter()
    tx.queue.append(RdmaWrite(None, [small, large, small], 0, 1))
    tx.queue.append(Send(None, [small]))
    tx.queue.append(RdmaWrite(None, [small] * 100, 0, 1))
    iov = tx.outgoing()
    assert [len(piece) for piece in iov[1:4]] == [64, 8192, 64]
    assert isinstance(iov[2], memoryview)
    assert iov[2].obj is large.obj
    # The Send goes next to its header, the hundred pieces go into one.
    assert len(iov) == 7
    assert len(iov[5]) == 6400


@pytest.mark.parametrize(("size", "one"), [(GATHERED_MAX, True), (GATHERED_MAX + 1, False)])
def test_pieces_are_gathered_up_to_a_size(size: int, one: bool) -> None:
    tx = transmitter()
    tx.queue.append(RdmaWrite(None, [memoryview(bytes(size))] * 20, 0, 1))
    assert (len(tx.outgoing()) == 3) is one


def test_what_was_gathered_stays_until_it_is_sent_however_slowly() -> None:
    tx = transmitter()
    data = bytes(range(256)) * 4096
    pieces = [memoryview(data)[at : at + 512] for at in range(0, len(data), 512)]
    for number in range(3):
        tx.queue.append(RdmaWrite(number, pieces, 0, 1))
    out, gathered = bytearray(), 0
    while iov := tx.outgoing():
        gathered = max(gathered, tx._gathered)
        joined = b"".join(iov)
        taken = max(1, len(joined) * 2 // 3)  # the room fills up before it is empty
        tx.sent(taken)
        out += joined[:taken]
    assert gathered <= GATHER_ROOM
    stream, payload = bytes(out), bytearray()
    while stream:
        ulpdu = int.from_bytes(stream[:2], "big")
        payload += stream[16 : 2 + ulpdu]
        stream = stream[fpdu_size(ulpdu) :]
    assert payload == data * 3


def test_items_end_in_order_as_their_last_byte_is_taken() -> None:
    tx = transmitter()
    first, second = Send(1, [memoryview(bytes(10))]), RdmaWrite(2, [memoryview(bytes(3000))], 0, 1)
    tx.queue.extend((first, second))
    total = sum(map(len, tx.outgoing()))
    assert tx.sent(31) == []
    assert tx.sent(5) == [first]
    assert tx.sent(total - 37) == []
    assert tx.unsent == 1
    tx.outgoing()
    assert tx.sent(1) == [second]
    assert not tx.outgoing()


def test_the_window_and_the_gather_list_are_bounded() -> None:
    tx = transmitter(segment=4096)
    data = memoryview(bytes(64 << 20))
    tx.queue.append(RdmaWrite(None, [data], 0, 1))
    tx.queue.append(RdmaWrite(None, [data[i : i + 600] for i in range(0, 600 * 4000, 600)], 0, 1))
    total = 0
    while iov := tx.outgoing():
        assert len(iov) <= GATHER_LIMIT
        assert tx.unsent <= TX_WINDOW + 2 * 4096
        size = sum(map(len, iov))
        total += size
        tx.sent(size)
    assert total > len(data) + 600 * 4000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1500), max_size=4), min_size=1, max_size=6),
    st.booleans(),
    st.integers(128, 3000),
    st.data(),
)
def test_partial_sends_make_the_same_stream(
    messages: list[list[int]], crc: bool, segment: int, data: st.DataObject
) -> None:
    def fill(tx: Transmitter) -> None:
        for number, sizes in enumerate(messages):
            views = [memoryview(bytes([number + 1]) * size) for size in sizes]
            tx.queue.append(Send(number, views) if number % 2 else RdmaWrite(number, views, 64, 1))

    whole, parts = transmitter(crc=crc, segment=segment), transmitter(crc=crc, segment=segment)
    fill(whole)
    fill(parts)
    out = bytearray()
    while iov := parts.outgoing():
        joined = b"".join(iov)
        taken = data.draw(st.integers(1, min(len(joined), 700)))
        out += joined[:taken]
        parts.sent(taken)
    assert bytes(out) == drain(whole)


@pytest.mark.parametrize("taken", [0, 1, 36, 40, 1000, 1460, 1461, 2921, 4096])
def test_a_terminate_follows_the_fpdu_that_is_half_sent(taken: int) -> None:
    data = memoryview(bytearray(b"\xaa" * 20_000))
    tx = transmitter(segment=1454)
    tx.queue.append(Send(None, [memoryview(bytes(12))]))
    tx.queue.append(RdmaWrite(None, [data], 0, 1))
    stream = b"".join(tx.outgoing())
    tx.sent(taken)
    tx.cut(build_terminate(fault.CRC))
    data[:] = bytes(20_000)  # what is flushed belongs to its owner again
    rest = drain(tx)
    found = headers(stream[:taken] + rest)
    assert found[-1][1] & 0xF == 7
    assert found[-1][3:] == (2, 1, 0)
    boundary = len(stream[:taken] + rest) - fpdu_size(found[-1][0])
    assert stream[:boundary] == (stream[:taken] + rest)[:boundary]
    assert boundary - taken < 1460


def test_nothing_goes_out_while_held() -> None:
    tx = transmitter()
    tx.held = True
    tx.queue.append(Send(None, [memoryview(b"x")]))
    assert not tx.pending
    assert not tx.outgoing()
    tx.held = False
    assert tx.pending
    assert tx.outgoing()


@pytest.mark.parametrize("size", [10, 3000, 60_000, 200_000])
def test_memory_that_changes_before_the_socket_takes_it_leaves_the_crc_right(size: int) -> None:
    """Somebody else may write the blocks that are on their way to a reader."""
    tx = transmitter(crc=True)
    data = memoryview(bytearray(size))
    tx.queue.append(RdmaWrite(None, [data[: size // 2], data[size // 2 :]], 0x1000, 0x77, False))
    iov = tx.outgoing()
    data[:] = b"x" * size
    stream = b"".join(iov)
    at = 0
    for ulpdu, *_ in headers(stream):
        end = at + fpdu_size(ulpdu)
        assert crc32c(stream[at : end - 4]) == int.from_bytes(stream[end - 4 : end], "little")
        at = end
    assert at == len(stream)


@pytest.mark.parametrize("size", [65_520, 65_521, 131_040, 131_041, 1 << 20, 3_000_001])
@pytest.mark.parametrize("taken", [1, 70_000, 1 << 30])
def test_full_segments_are_the_same_bytes_as_with_crc(size: int, taken: int) -> None:
    """The short way for one piece without CRC against the other one, however little the socket takes."""
    data = memoryview(random.Random(size).randbytes(size))
    streams = []
    for crc in (False, True):
        tx = transmitter(segment=0xFFFF, crc=crc)
        tx.queue.append(RdmaWrite(None, [data], (1 << 64) - 100_000, 0x55))
        tx.queue.append(Send(None, [data[:50]]))
        stream, ended = bytearray(), 0
        while iov := tx.outgoing():
            assert len(iov) <= GATHER_LIMIT
            part = b"".join(iov)[: max(taken, len(stream) and 50_000)]
            stream += part
            ended += sum(item is not None for item in tx.sent(len(part)))
        assert ended == 2
        streams.append(bytes(stream))
    plain, checked = streams
    assert len(plain) == len(checked)
    at = 0
    while at < len(plain):
        length = fpdu_size(int.from_bytes(plain[at : at + 2], "big"))
        assert plain[at : at + length - 4] == checked[at : at + length - 4]
        assert plain[at + length - 4 : at + length] == bytes(4)
        at += length


def test_a_terminate_follows_the_rest_of_a_full_segment() -> None:
    tx = transmitter(segment=0xFFFF)
    data = memoryview(bytes(range(256)) * 1024)
    tx.queue.append(RdmaWrite(None, [data], 0, 0x55))
    whole = b"".join(tx.outgoing())
    tx.sent(70_000)  # into the second of five
    tx.cut(b"\0\0\0\0")
    out = b"".join(tx.outgoing())
    end = 2 * fpdu_size(0xFFFF - 1)
    assert out[: end - 70_000] == whole[70_000:end]
    assert out[end - 70_000 :][2:4] == b"\x41\x47"
