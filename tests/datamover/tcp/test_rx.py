"""The receiving half: any split of the stream, in place or staged, digests, limits, and garbage."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.datamover.tcp.rx import RECV_SIZE, STAGING_SIZE, STEER_MIN, STEER_PIECES, Receiver, discarded
from iser.datamover.tcp.wire import DATA_OUT_OPCODE, PADDING, digest
from iser.errors import PduError, RemoteProtocolError
from iser.pdu import (
    RESERVED_TAG,
    DataOut,
    ExtendedCdb,
    NopOut,
    Pdu,
    RejectReason,
    ScsiCommand,
    TextRequest,
    decode_bhs,
    encode,
    encode_header,
)

MAX_DATA = 256 << 10


class Owner:
    """Keeps what comes up; Data-Outs with a transfer tag go into ``memory`` in pieces of ``piece`` bytes."""

    def __init__(
        self, *, memory: int = 1 << 20, piece: int = 1 << 20, header: bool = False, data: bool = False
    ) -> None:
        self.seen: list[Any] = []
        self.memory = memoryview(bytearray(memory))
        self.piece = piece
        self.rx = Receiver(self, DATA_OUT_OPCODE, MAX_DATA)
        self.rx.header_digest, self.rx.data_digest = header, data

    def pdu_received(self, pdu: Pdu) -> None:
        self.seen.append((pdu.bhs, bytes(pdu.data), pdu.ahs))

    def malformed(self, error: PduError, bhs: bytes) -> None:
        assert len(bhs) == 48
        self.seen.append(error.reason)

    def destination(self, bhs: DataOut) -> Sequence[memoryview] | None:
        if bhs.ttt == RESERVED_TAG:
            return None
        end = bhs.buffer_offset + bhs.data_segment_length
        starts = range(bhs.buffer_offset, end, self.piece)
        return [self.memory[start : min(start + self.piece, end)] for start in starts]

    def placed(self, bhs: DataOut) -> None:
        place = slice(bhs.buffer_offset, bhs.buffer_offset + bhs.data_segment_length)
        self.seen.append((bhs, bytes(self.memory[place]), ()))

    def feed(self, wire: bytes, *sizes: int) -> None:
        """Receive ``wire``, in reads of ``sizes`` and then as large as the buffers allow."""
        rest, plan = memoryview(wire), list(sizes)
        while rest and not self.rx.stopped:
            buffers = self.rx.get_buffers()
            room = sum(map(len, buffers))
            assert room > 0
            assert len(buffers) <= STEER_PIECES + 1
            count = min(len(rest), room, plan.pop(0) if plan else 1 << 30)
            left = count
            for buffer in buffers:
                part = min(len(buffer), left)
                buffer[:part] = rest[:part]
                rest = rest[part:]
                left -= part
            self.rx.received(count)


def wire_of(pdu: Pdu, *, header: bool = False, data: bool = False) -> bytes:
    if not (header or data):
        return encode(pdu)
    head = encode_header(pdu)
    segment = bytes(pdu.data) + PADDING[len(pdu.data) & 3]
    return b"".join((head, digest(head) if header else b"", segment, digest(segment) if data and pdu.data else b""))


def seen_of(pdu: Pdu) -> tuple[Any, bytes, Any]:
    ahs = sum(4 + len(each.cdb) for each in pdu.ahs if isinstance(each, ExtendedCdb)) + 3 >> 2
    bhs: Any = pdu.bhs
    if ahs:
        bhs = bhs._replace(total_ahs_length=ahs)
    return bhs._replace(data_segment_length=len(pdu.data)), bytes(pdu.data), pdu.ahs


def filled(length: int, seed: int = 1) -> bytes:
    return bytes((index * seed + (index >> 8)) & 0xFF for index in range(length))


LENGTHS = st.one_of(st.integers(0, 40), st.integers(500, 5000), st.integers(STEER_MIN - 50, 3 * STEER_MIN))
PDUS = st.one_of(
    st.builds(lambda length: Pdu(NopOut(itt=3), filled(length)), LENGTHS),
    st.builds(
        lambda length, at: Pdu(DataOut(ttt=5, buffer_offset=at), filled(length, 3)), LENGTHS, st.integers(0, 999)
    ),
    st.builds(lambda length: Pdu(DataOut(), filled(length, 7)), LENGTHS),
    st.builds(
        lambda length, cdb: Pdu(ScsiCommand(), filled(length), (ExtendedCdb(cdb),) if cdb else ()),
        LENGTHS,
        st.binary(max_size=20),
    ),
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(PDUS, min_size=1, max_size=5),
    st.lists(st.one_of(st.integers(1, 60), st.integers(1, 70000)), max_size=30),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1 << 20, 4096, 37]),
)
def test_however_the_stream_is_split_the_pdus_are_the_same(
    pdus: list[Pdu], sizes: list[int], header: bool, data: bool, piece: int
) -> None:
    owner = Owner(piece=piece, header=header, data=data)
    owner.feed(b"".join(wire_of(pdu, header=header, data=data) for pdu in pdus), *sizes)
    assert owner.seen == [seen_of(pdu) for pdu in pdus]
    assert not owner.rx.mid_message


def test_byte_by_byte() -> None:
    pdus = [Pdu(NopOut(), b"abc"), Pdu(DataOut(ttt=5), filled(700)), Pdu(ScsiCommand(), b"", (ExtendedCdb(b"xy"),))]
    wire = b"".join(wire_of(pdu, header=True, data=True) for pdu in pdus)
    owner = Owner(header=True, data=True)
    for index in range(len(wire)):
        owner.feed(wire[index : index + 1])
        assert owner.rx.mid_message == (len(owner.seen) < 3 and index + 1 not in _ends(pdus))
    assert owner.seen == [seen_of(pdu) for pdu in pdus]


def _ends(pdus: list[Pdu]) -> set[int]:
    ends, at = set(), 0
    for pdu in pdus:
        at += len(wire_of(pdu, header=True, data=True))
        ends.add(at)
    return ends


def test_large_data_is_asked_for_in_its_place() -> None:
    owner = Owner()
    wire = wire_of(Pdu(DataOut(ttt=5, buffer_offset=512), filled(200_000)))
    owner.feed(wire[:1000])
    place = owner.rx.get_buffers()[0]
    place[:1] = b"\xee"
    assert owner.memory[512 + 1000 - 48] == 0xEE


def test_a_list_of_many_pieces_is_asked_for_in_parts() -> None:
    owner = Owner(piece=10)
    owner.feed(wire_of(Pdu(DataOut(ttt=5), filled(100_001))))
    assert owner.seen == [seen_of(Pdu(DataOut(ttt=5), filled(100_001)))]


def test_what_is_staged_always_fits() -> None:
    assert RECV_SIZE + STEER_MIN + RECV_SIZE <= STAGING_SIZE
    owner = Owner()
    pdu = Pdu(NopOut(), filled(RECV_SIZE + STEER_MIN - 100))
    owner.feed(wire_of(pdu) * 40, *[RECV_SIZE - 1] * 200)
    assert owner.seen == [seen_of(pdu)] * 40


@pytest.mark.parametrize("length", [MAX_DATA + 1, 0xFFFFFF])
def test_too_much_data_is_rejected_and_ends_it(length: int) -> None:
    owner = Owner()
    with pytest.raises(RemoteProtocolError, match=f"{length} bytes; at most {MAX_DATA}"):
        owner.feed(encode_header(Pdu(NopOut(), bytes(length))))
    assert owner.seen == [RejectReason.PROTOCOL_ERROR]


def test_the_longest_data_is_taken() -> None:
    owner = Owner()
    owner.feed(wire_of(Pdu(DataOut(), filled(MAX_DATA))))
    assert len(owner.seen[0][1]) == MAX_DATA


def test_a_wrong_header_digest_ends_it_before_anything_is_believed() -> None:
    wire = bytearray(wire_of(Pdu(NopOut(), b"data"), header=True))
    wire[5] ^= 0x80  # a length of 8 MiB
    owner = Owner(header=True)
    with pytest.raises(RemoteProtocolError, match="header digest"):
        owner.feed(bytes(wire))
    assert owner.seen == []


@pytest.mark.parametrize("length", [100, 100_000])
def test_a_wrong_data_digest_is_rejected_and_ends_it(length: int) -> None:
    wire = bytearray(wire_of(Pdu(DataOut(ttt=5), filled(length)), data=True))
    wire[60] ^= 1
    owner = Owner(data=True)
    with pytest.raises(RemoteProtocolError, match="wrong digest"):
        owner.feed(bytes(wire), 500)
    assert owner.seen == [RejectReason.DATA_DIGEST_ERROR]


@pytest.mark.parametrize("length", [0, 100, 100_000])
def test_an_unknown_opcode_is_rejected_and_the_stream_goes_on(length: int) -> None:
    wire = bytearray(wire_of(Pdu(NopOut(), filled(length))))
    wire[0] = 0x1E
    owner = Owner()
    owner.feed(bytes(wire) + wire_of(Pdu(NopOut())))
    assert owner.seen == [RejectReason.COMMAND_NOT_SUPPORTED, seen_of(Pdu(NopOut()))]


@pytest.mark.parametrize("bhs", [ScsiCommand(), TextRequest()])
def test_a_malformed_ahs_is_rejected_and_the_stream_goes_on(bhs: Any) -> None:
    wire = bytearray(encode(Pdu(bhs)))
    wire[4] = 255
    owner = Owner()
    owner.feed(bytes(wire) + b"\xff" * 1020 + wire_of(Pdu(NopOut())))
    assert owner.seen == [RejectReason.INVALID_PDU_FIELD, seen_of(Pdu(NopOut()))]


@pytest.mark.parametrize("data", [False, True])
def test_data_of_a_task_that_ended_meanwhile_is_thrown_away(data: bool) -> None:
    owner = Owner(data=data)
    wire = wire_of(Pdu(DataOut(itt=9, ttt=5), b"\xff" * 200_000), data=data)
    owner.feed(wire[:70_000])
    before = bytes(owner.memory)
    owner.rx.redirect(itt=8)
    assert owner.rx.get_buffers()[0].obj is owner.memory.obj
    owner.rx.redirect(itt=9)
    owner.feed(wire[70_000:] + wire_of(Pdu(NopOut()), data=data))
    assert bytes(owner.memory) == before
    assert owner.seen[1] == seen_of(Pdu(NopOut()))


def test_others_may_write_where_data_is_being_received() -> None:
    """Two initiators that write one block at once; the digest is of what came."""
    owner = Owner(data=True)
    wire = wire_of(Pdu(DataOut(ttt=5), filled(100_000)), data=True)
    owner.feed(wire[:50_000])
    owner.feed(wire[50_000:80_000])
    owner.memory[:70_000] = bytes(70_000)
    owner.feed(wire[80_000:])
    ((_, data, _),) = owner.seen
    assert data[79_000:] == filled(100_000)[79_000:]


@pytest.mark.parametrize("length", [30_000, 200_001])
def test_data_that_nobody_wants_has_no_digest_to_be_wrong(length: int) -> None:
    """It goes where that of other connections does, too."""
    owner = Owner(data=True)
    owner.destination = lambda bhs: discarded(bhs.data_segment_length)  # type: ignore[method-assign]  # of a task that ended
    wire = wire_of(Pdu(DataOut(ttt=5), filled(length)), data=True)
    owner.feed(wire[:10_000])
    discarded(1)[0][:] = b"x"
    owner.feed(wire[10_000:] + wire_of(Pdu(NopOut()), data=True))
    assert owner.seen[1] == seen_of(Pdu(NopOut()))


def test_memory_for_what_nobody_wants_is_little() -> None:
    views = discarded(0xFFFFFF)
    assert sum(map(len, views)) == 0xFFFFFF
    assert len({id(view.obj) for view in views}) == 1
    assert len(views) <= STEER_PIECES


def test_nothing_is_received_once_it_is_stopped() -> None:
    owner = Owner()
    owner.feed(wire_of(Pdu(DataOut(ttt=5), bytes(100_000)))[:60_000])
    owner.rx.stop()
    assert not owner.rx.mid_message
    owner.rx.received(10)
    assert owner.seen == []
    # What still comes goes where nobody looks, and the staging memory is free.
    assert [buffer.obj for buffer in owner.rx.get_buffers()] == [discarded(1)[0].obj]


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=400), st.booleans(), st.booleans(), st.lists(st.integers(1, 100), max_size=10))
def test_garbage_raises_nothing_else(blob: bytes, header: bool, data: bool, sizes: list[int]) -> None:
    owner = Owner(header=header, data=data)
    owner.destination = lambda bhs: None  # type: ignore[method-assign]  # any offset would do
    with contextlib.suppress(RemoteProtocolError):
        owner.feed(blob, *sizes)


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("takes", [False, True])
@pytest.mark.parametrize("step", [1 << 20, 1000])
def test_who_serves_quickly_is_asked_first_for_plain_commands(digests: bool, takes: bool, step: int) -> None:
    owner = Owner(header=digests, data=digests)
    asked: list[tuple[int, bytes]] = []

    def quick(buffer: bytes | bytearray | memoryview, offset: int, data: memoryview | bytes) -> bool:
        bhs = decode_bhs(buffer, offset)
        assert isinstance(bhs, ScsiCommand)
        asked.append((bhs.itt, bytes(data)))
        return takes

    owner.rx.quick = quick
    long = bytes(STEER_MIN + RECV_SIZE)
    pdus = [
        Pdu(ScsiCommand(itt=1)),
        Pdu(ScsiCommand(opcode=0x41, itt=2)),
        Pdu(ScsiCommand(itt=3), b"abc"),
        Pdu(ScsiCommand(itt=4), b"", (ExtendedCdb(bytes(20)),)),
        Pdu(NopOut(itt=5)),
        Pdu(ScsiCommand(itt=6), long),
    ]
    wire = b"".join(wire_of(pdu, header=digests, data=digests) for pdu in pdus)
    owner.feed(wire, *[step] * (len(wire) // step + 1))
    assert asked == [(1, b""), (3, b"abc"), (6, long)]
    others = [1, 2, 3, 4, 5, 6] if not takes else [2, 4, 5]
    assert [bhs.itt for bhs, _, _ in owner.seen] == others
