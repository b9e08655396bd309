"""MPA start-up, both roles."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import ConnectionRejected, MpaError, TerminateError, UsageError
from iser.rdma.softiwarp.mpa import (
    MAX_PRIVATE_DATA,
    MPA_HEADER_SIZE,
    Agreed,
    FrameReader,
    MpaFrame,
    MpaInitiator,
    MpaResponder,
    Rtr,
    build_frame,
)

ISER = bytes.fromhex("80000000")
# Recorded between LIO over the kernel's siw and an initiator.
REQUEST = bytes.fromhex("4d504120494420526571204672616d65100200080010000880000000")
REPLY = bytes.fromhex("4d504120494420526570204672616d65100200080008001080000000")
REQUEST_P2P = bytes.fromhex("4d504120494420526571204672616d655002000880108008c0000000")
REPLY_P2P = bytes.fromhex("4d504120494420526570204672616d655002000880088010c0000000")
KERNEL_REQUEST = bytes.fromhex("4d504120494420526571204672616d65100200080080000180000000")


def parse(data: bytes, *, reply: bool = False) -> MpaFrame:
    frame = FrameReader(reply=reply).feed(data)
    assert frame is not None
    return frame


def respond(request: bytes, private_data: bytes = ISER, ird: int = 128, ord: int = 128) -> tuple[bytes, Agreed]:
    return MpaResponder(parse(request)).accept(private_data, ird=ird, ord=ord, crc=False)


def test_the_request_is_the_one_that_the_kernel_accepted() -> None:
    mpa = MpaInitiator(ISER, ird=16, ord=8, crc=False)
    assert mpa.request == REQUEST
    assert mpa.reply(parse(REPLY, reply=True)) == Agreed(False, 16, 8, ISER)


def test_the_reply_is_what_the_kernel_answers() -> None:
    reply, agreed = respond(REQUEST)
    assert reply == REPLY
    assert agreed == Agreed(False, 8, 16, ISER)
    assert respond(REQUEST_P2P, bytes.fromhex("c0000000"))[0] == REPLY_P2P


def test_the_kernel_initiator_gets_one_read_and_serves_as_many_as_we_like() -> None:
    responder = MpaResponder(parse(KERNEL_REQUEST))
    assert (responder.peer_ird, responder.peer_ord, responder.private_data) == (128, 1, ISER)
    _, agreed = responder.accept(ISER, ird=16, ord=32, crc=False)
    assert (agreed.ird, agreed.ord) == (1, 32)


def test_read_depth_is_never_offered_as_zero() -> None:
    request = parse(MpaInitiator(b"", ird=0, ord=0, crc=False).request)
    assert MpaResponder(request).peer_ird == 1


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
def test_crc_is_on_if_either_side_asks(ours: bool, theirs: bool) -> None:
    initiator = MpaInitiator(b"", ird=1, ord=1, crc=ours)
    reply, agreed = MpaResponder(parse(initiator.request)).accept(b"", ird=1, ord=1, crc=theirs)
    assert agreed.crc == initiator.reply(parse(reply, reply=True)).crc == (ours or theirs)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 0x3FFE),
    st.integers(0, 0x3FFE),
    st.integers(0, 0x3FFE),
    st.integers(0, 0x3FFE),
    st.sampled_from([1, 2]),
    st.binary(max_size=64),
)
def test_both_sides_agree_on_what_the_other_can_serve(
    ird: int, ord: int, their_ird: int, their_ord: int, version: int, data: bytes
) -> None:
    initiator = MpaInitiator(data, ird=ird, ord=ord, crc=False, version=version)
    responder = MpaResponder(parse(initiator.request))
    assert responder.fault is None
    assert responder.private_data == data
    reply, theirs = responder.accept(data[::-1], ird=their_ird, ord=their_ord, crc=False)
    ours = initiator.reply(parse(reply, reply=True))
    assert ours.private_data == data[::-1]
    if version == 2:
        assert ours.ord <= theirs.ird <= their_ird
        assert theirs.ord <= ours.ird
        assert ours.ord <= ord
    else:
        assert (ours.ird, ours.ord, theirs.ird, theirs.ord) == (ird, ord, their_ird, their_ord)


def test_unknown_depths_leave_ours_alone() -> None:
    prefix = bytes.fromhex("3fff3fff")
    _, agreed = respond(build_frame(MpaFrame(0x10, 2, prefix), reply=False), ird=5, ord=6)
    assert (agreed.ird, agreed.ord) == (5, 6)
    initiator = MpaInitiator(b"", ird=5, ord=6, crc=False)
    assert initiator.reply(MpaFrame(0x10, 2, prefix)).ord == 6


@pytest.mark.parametrize(
    ("offer", "reply", "rtr"),
    [
        ((0x8000, 0xC000), (0x8000, 0x8000), Rtr.WRITE),
        ((0x8000, 0x8000), (0x8000, 0x8000), Rtr.WRITE),
        ((0x8000, 0x4000), (0x8000, 0x4000), Rtr.READ),
        ((0x8000, 0x0000), (0x8000, 0x8000), Rtr.WRITE),
        ((0xC000, 0x0000), (0x8000, 0x8000), Rtr.WRITE),
        ((0x0000, 0xC000), (0x0000, 0x0000), Rtr.NONE),
    ],
)
def test_peer_to_peer_first_frame(offer: tuple[int, int], reply: tuple[int, int], rtr: Rtr) -> None:
    prefix = (offer[0] | 1).to_bytes(2, "big") + (offer[1] | 1).to_bytes(2, "big")
    answer, _ = respond(build_frame(MpaFrame(0x10, 2, prefix), reply=False), b"")
    words = answer[20:22], answer[22:24]
    assert tuple(int.from_bytes(word, "big") & 0xC000 for word in words) == reply
    initiator = MpaInitiator(b"", ird=1, ord=1, crc=False, peer_to_peer=True)
    assert initiator.reply(parse(answer, reply=True)).rtr is rtr


def test_a_reply_that_names_no_first_frame_is_answered_with_a_terminate() -> None:
    initiator = MpaInitiator(b"", ird=1, ord=1, crc=False, peer_to_peer=True)
    with pytest.raises(TerminateError, match="2/0/07"):
        initiator.reply(MpaFrame(0x10, 2, bytes.fromhex("80010001")))


def test_a_peer_that_wants_more_reads_than_we_serve_is_answered_with_a_terminate() -> None:
    with pytest.raises(TerminateError, match="2/0/06"):
        MpaInitiator(b"", ird=4, ord=1, crc=False).reply(MpaFrame(0x10, 2, bytes.fromhex("00040005")))


@pytest.mark.parametrize("version", [1, 2])
def test_a_refusal_brings_its_private_data(version: int) -> None:
    initiator = MpaInitiator(ISER, ird=4, ord=4, crc=False, version=version)
    refusal = MpaResponder(parse(initiator.request)).reject(b"go away")
    with pytest.raises(ConnectionRejected) as caught:
        initiator.reply(parse(refusal, reply=True))
    assert caught.value.private_data == b"go away"


@pytest.mark.parametrize(
    "frame",
    [
        MpaFrame(0x90, 2, bytes(4)),  # markers
        MpaFrame(0x00, 1, b""),  # another version
        MpaFrame(0x00, 2, bytes(4)),  # no IRD and ORD
        MpaFrame(0x10, 2, bytes(3)),  # announced, and cut
    ],
)
def test_replies_that_do_not_answer_the_request(frame: MpaFrame) -> None:
    with pytest.raises(MpaError):
        MpaInitiator(b"", ird=4, ord=4, crc=False).reply(frame)


@pytest.mark.parametrize(
    "frame",
    [
        MpaFrame(0x80, 1, b""),
        MpaFrame(0x90, 2, bytes(4)),
        MpaFrame(0x00, 0, b""),
        MpaFrame(0x10, 3, bytes(4)),
        MpaFrame(0x20, 1, b""),
        MpaFrame(0x10, 2, bytes(3)),
    ],
)
def test_requests_that_are_refused(frame: MpaFrame) -> None:
    responder = MpaResponder(frame)
    assert responder.fault
    assert parse(responder.reject(), reply=True).flags & 0x20


def test_reserved_flag_bits_are_ignored() -> None:
    assert MpaResponder(MpaFrame(0x1F, 2, bytes.fromhex("00010001"))).fault is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=MAX_PRIVATE_DATA), st.booleans(), st.data())
def test_frames_in_pieces(flags: int, revision: int, data: bytes, reply: bool, draw: st.DataObject) -> None:
    wire = build_frame(MpaFrame(flags, revision, data), reply=reply)
    reader = FrameReader(reply=reply)
    frame = None
    while frame is None:
        assert reader.needed <= len(wire)
        size = draw.draw(st.integers(1, reader.needed))
        frame = reader.feed(wire[:size])
        wire = wire[size:]
    assert frame == MpaFrame(flags, revision, data)
    assert not wire


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=64))
def test_garbage_is_refused_at_its_first_wrong_byte(data: bytes) -> None:
    expected = b"MPA ID Req Frame"
    reader = FrameReader(reply=False)
    if data[:16] == expected[: len(data)]:
        return
    with pytest.raises(MpaError):
        reader.feed(data)


def test_private_data_has_a_limit_both_ways() -> None:
    with pytest.raises(UsageError, match="512"):
        MpaInitiator(bytes(MAX_PRIVATE_DATA - 3), ird=1, ord=1, crc=False)
    MpaInitiator(bytes(MAX_PRIVATE_DATA - 4), ird=1, ord=1, crc=False)
    header = REQUEST[:18] + (MAX_PRIVATE_DATA + 1).to_bytes(2, "big")
    with pytest.raises(MpaError, match="513"):
        FrameReader(reply=False).feed(header)
    assert len(header) == MPA_HEADER_SIZE


@pytest.mark.parametrize("depth", [-1, 0x3FFF])
def test_depths_that_no_frame_can_say(depth: int) -> None:
    with pytest.raises(UsageError, match="16382"):
        MpaInitiator(b"", ird=1, ord=depth, crc=False)
