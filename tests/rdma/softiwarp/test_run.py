"""Payload received in place, several segments at once: as foreseen, and when the peer goes on with something else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import TerminateError
from iser.rdma.api import RdmaRead, WcOpcode, WcStatus
from iser.rdma.softiwarp.run import RUN_PIECES, RUN_SEGMENTS, Run
from iser.rdma.softiwarp.wire import CTRL_LAST, OP_READ_RESPONSE, OP_SEND, OP_WRITE, TAGGED, TAGGED_HEADER
from tests.rdma.softiwarp.support import Peer, buffer, fpdu, tagged, untagged

SEGMENT = 20_000
STAG = 0x1234


class Reader:
    """A core with one read under way into ``pieces`` of an arena that is otherwise full of ``~``."""

    def __init__(self, lengths: list[int], *, crc: bool = False, gap: int = 5) -> None:
        self.peer = Peer(crc=crc)
        self.total = sum(lengths)
        self.arena = memoryview(bytearray(b"~" * (self.total + gap * (len(lengths) + 1))))
        self.views, at = [], gap
        for length in lengths:
            self.views.append(self.arena[at : at + length])
            at += length + gap
        self.peer.core.post_send([RdmaRead("read", self.views, 0x1000, STAG)])
        self.sink = int.from_bytes(self.peer.take()[20:24], "big")
        self.receive = buffer(100)
        for name in ("first", "second"):
            self.peer.core.post_recv(name, self.receive)

    def response(self, data: bytes, cuts: list[int], *, crc: bool = False) -> bytes:
        """``data`` as a response in segments that end at ``cuts``."""
        out = b""
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            last = end == len(data)
            out += tagged(OP_READ_RESPONSE, self.sink, start, data[start:end], last=last, crc=crc)
        return out

    @property
    def got(self) -> bytes:
        return b"".join(self.views)

    @property
    def outside_is_untouched(self) -> bool:
        return bytes(self.arena).count(b"~") >= len(self.arena) - self.total and all(
            bytes(self.arena[start : start + 5]) == b"~~~~~" for start in self._gaps()
        )

    def _gaps(self) -> list[int]:
        starts, at = [0], 5
        for view in self.views:
            starts.append(at + len(view))
            at += len(view) + 5
        return starts


def even(total: int, size: int = SEGMENT) -> list[int]:
    return list(range(size, total, size))


def noise(length: int) -> bytes:
    """Bytes without the filler of the arena."""
    return random.Random(length).randbytes(length).replace(b"~", b"!")


def test_one_call_takes_several_segments() -> None:
    reader = Reader([5 * SEGMENT])
    data = noise(reader.total)
    stream = reader.response(data, even(reader.total)) + untagged(OP_SEND, b"done")
    reader.peer.give(stream[:1000])
    space = reader.peer.core.get_buffers()
    assert sum(map(len, space)) > 4 * SEGMENT
    reader.peer.give(stream[1000:])
    assert reader.got == data
    assert [(wc.wr_id, wc.status, wc.byte_len) for wc in reader.peer.log] == [
        ("read", WcStatus.SUCCESS, reader.total),
        ("first", WcStatus.SUCCESS, 4),
    ]


def test_no_call_asks_for_more_than_the_limits() -> None:
    reader = Reader([SEGMENT] * (3 * RUN_SEGMENTS))
    data = noise(reader.total)
    stream = reader.response(data, even(reader.total))
    while stream:
        space = reader.peer.core.get_buffers()
        assert len(space) <= RUN_PIECES + 1
        assert sum(map(len, space)) <= (RUN_SEGMENTS + 1) * (SEGMENT + 20)
        reader.peer.give(stream[:70_000])
        stream = stream[70_000:]
    assert reader.got == data


def test_a_list_of_very_many_pieces() -> None:
    reader = Reader([64] * 5000, gap=5)
    data = noise(reader.total)
    stream = reader.response(data, even(reader.total, 64_000))
    while stream:
        assert len(reader.peer.core.get_buffers()) <= RUN_PIECES + 1
        reader.peer.give(stream[:9_000])
        stream = stream[9_000:]
    assert reader.got == data
    assert reader.outside_is_untouched


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_however_a_response_is_cut_and_comes(data: st.DataObject) -> None:
    """Segments of any sizes, Sends between them, in pieces of any sizes: the memory is as if all came at once."""
    draw = data.draw
    lengths = draw(st.lists(st.one_of(st.integers(1, 300), st.integers(10_000, 90_000)), min_size=1, max_size=6))
    reader = Reader(lengths)
    expected = noise(reader.total)
    size = draw(st.sampled_from((20_000, 20_001, 40_000, 65_520)))
    cuts = even(reader.total, size)
    for _ in range(draw(st.integers(0, 2))):
        cuts = sorted({*cuts, *(cut for cut in (draw(st.integers(1, reader.total)),) if cut < reader.total)})
    frames = [
        tagged(OP_READ_RESPONSE, reader.sink, start, expected[start:end], last=end == reader.total)
        for start, end in zip([0, *cuts], [*cuts, reader.total], strict=True)
    ]
    places = sorted(draw(st.lists(st.integers(0, len(frames)), max_size=2)), reverse=True)
    for msn, place in zip(range(len(places), 0, -1), places, strict=True):
        frames.insert(place, untagged(OP_SEND, b"x" * 30, msn=msn))
    stream = b"".join(frames)
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    step = draw(st.sampled_from((1 << 20, 100_000, 30_000, 1_000)))
    while stream:
        count = rng.randint(1, step)
        reader.peer.give(stream[:count])
        stream = stream[count:]
    assert reader.peer.core.error is None
    assert reader.got == expected
    assert reader.outside_is_untouched
    assert ("read", WcStatus.SUCCESS, WcOpcode.RDMA_READ, reader.total, 0) in reader.peer.log
    assert not reader.peer.core.rx.mid_fpdu


WRONG = {
    "another key": lambda r: tagged(OP_READ_RESPONSE, r.sink ^ 1, SEGMENT, bytes(SEGMENT), last=False),
    "a gap": lambda r: tagged(OP_READ_RESPONSE, r.sink, SEGMENT + 4, bytes(SEGMENT), last=False),
    "the same again": lambda r: tagged(OP_READ_RESPONSE, r.sink, 0, bytes(SEGMENT), last=False),
    "an end too early": lambda r: tagged(OP_READ_RESPONSE, r.sink, SEGMENT, bytes(SEGMENT)),
    "more than was asked for": lambda r: tagged(OP_READ_RESPONSE, r.sink, SEGMENT, bytes(60_000), last=False),
    "an unknown operation": lambda r: fpdu(b"\x81\x4f" + bytes(40_000)),
    "a write to no key": lambda r: tagged(OP_WRITE, 0x99, SEGMENT, bytes(SEGMENT), last=False),
    "a length below the header's": lambda r: b"\x00\x03" + bytes(SEGMENT),
    "garbage": lambda r: noise(2 * SEGMENT),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("step", [1 << 20, 7_777])
def test_a_wrong_header_ends_the_connection_and_touches_nothing_else(what: str, step: int) -> None:
    reader = Reader([100, 2 * SEGMENT, 3, SEGMENT - 103])
    stream = tagged(OP_READ_RESPONSE, reader.sink, 0, bytes(SEGMENT), last=False) + WRONG[what](reader)
    stream += noise(3 * SEGMENT)
    reader.peer.give(stream[:1000])
    assert sum(map(len, reader.peer.core.get_buffers())) > 2 * SEGMENT
    stream = stream[1000:]
    for start in range(0, len(stream), step):
        reader.peer.give(stream[start : start + step])
    assert isinstance(reader.peer.core.error, TerminateError)
    assert [wc.status for wc in reader.peer.log] == [WcStatus.WR_FLUSH_ERR] * 3
    assert reader.outside_is_untouched


def test_a_terminate_in_the_middle_of_a_response() -> None:
    reader = Reader([5 * SEGMENT])
    stream = tagged(OP_READ_RESPONSE, reader.sink, 0, bytes(SEGMENT), last=False)
    reader.peer.give(stream[:1000])
    reader.peer.give(stream[1000:] + untagged(0x0147, b"\x01\x00\x00\x00", qn=2))
    assert isinstance(reader.peer.core.error, TerminateError)


def test_a_peer_that_surprises_is_received_segment_by_segment_for_a_while() -> None:
    reader = Reader([10 * SEGMENT])
    stream = reader.response(bytes(reader.total), even(reader.total))
    first, second = stream[: SEGMENT + 20], stream[SEGMENT + 20 :]
    reader.peer.give(first[:1000])
    assert sum(map(len, reader.peer.core.get_buffers())) > 9 * SEGMENT
    reader.peer.give(first[1000:] + untagged(OP_SEND, b"hello"))
    reader.peer.give(second[:1000])
    assert sum(map(len, reader.peer.core.get_buffers())) < SEGMENT + 100
    reader.peer.give(second[1000:])
    assert reader.got == bytes(reader.total)


def test_with_crc_each_segment_is_checked_before_the_next() -> None:
    reader = Reader([4 * SEGMENT], crc=True)
    data = noise(reader.total)
    stream = bytearray(reader.response(data, even(reader.total), crc=True))
    stream[SEGMENT + 20 + 500] ^= 1  # in the second segment
    reader.peer.give(bytes(stream[:1000]))
    assert sum(map(len, reader.peer.core.get_buffers())) < SEGMENT + 100
    reader.peer.give(bytes(stream[1000:]))
    assert isinstance(reader.peer.core.error, TerminateError)
    assert not any(wc.status is WcStatus.SUCCESS for wc in reader.peer.log)


def test_an_end_between_foreseen_segments_is_one_in_the_middle() -> None:
    reader = Reader([5 * SEGMENT])
    first = tagged(OP_READ_RESPONSE, reader.sink, 0, bytes(SEGMENT), last=False)
    reader.peer.give(first[:1000])
    reader.peer.give(first[1000:])
    assert reader.peer.core.rx.mid_fpdu


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=10), st.integers(1, 60), st.lists(st.integers(1, 50), max_size=30)
)
@settings(max_examples=100, deadline=None)
def test_a_run_fills_its_pieces_in_order(lengths: list[int], segment: int, steps: list[int]) -> None:
    segment *= 4
    memory = memoryview(bytearray(sum(lengths) + segment))
    header = TAGGED.pack(TAGGED_HEADER + segment, OP_READ_RESPONSE, STAG, 0)
    run = Run(header, 4, [memory[:segment]], segment)
    run.foresee(lambda offset, length: [memory[offset : offset + length]], segment, len(memory) - segment)
    data = noise(len(memory))
    stream = b""
    for start in range(0, len(memory), segment):
        part = data[start : start + segment]
        last = CTRL_LAST * (start + segment >= len(memory))
        stream += TAGGED.pack(TAGGED_HEADER + len(part), OP_READ_RESPONSE | last, STAG, start) + part + bytes(4)
    stream = stream[16:]
    assert run.last is (RUN_SEGMENTS * segment >= len(memory))
    for step in [*steps, len(stream)]:
        count = 0
        for space in run.buffers():
            part = stream[count : min(count + len(space), step)]
            space[: len(part)] = part
            count += len(part)
        assert run.took(count) == 0
        stream = stream[count:]
        if not run.left:
            break
    assert run.strays is None
    assert memory[: run.done] == data[: run.done]
    if run.last:
        assert bytes(memory) == data
