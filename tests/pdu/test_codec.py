"""Whole PDUs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import LocalProtocolError, PduError
from iser.pdu.ahs import BidiReadLength, ExtendedCdb, build_ahs
from iser.pdu.bhs import BHS_LENGTH, BHS_TYPES, Bhs, NopIn, NopOut, ScsiCommand, ScsiResponse
from iser.pdu.codec import (
    MAX_DATA_SEGMENT_LENGTH,
    Pdu,
    decode,
    decode_bhs,
    encode,
    encode_bhs,
    encode_bhs_into,
    encode_header,
    padding,
)
from iser.pdu.const import OPCODE_MASK, RejectReason
from tests.pdu.test_ahs import segments
from tests.pdu.values import values

# Recorded from LIO over siw: CHECK CONDITION for an unknown command.  Sense length, fixed sense, zeros, 2 bytes of pad.
CHECK_CONDITION = bytes.fromhex(
    "218000020000006200000000000000000000001600000000"
    "9e3dae530000000700000046000000000000000000000000"
    "0060700005000000000a0000000020000000"
) + bytes(82)

KNOWN = st.sampled_from(sorted(BHS_TYPES.items()))
UNKNOWN = sorted(set(range(64)) - set(BHS_TYPES))


@st.composite
def headers(draw: st.DrawFn) -> Bhs:
    """Any BHS, with the opcode of its class and any immediate bit."""
    opcode, cls = draw(KNOWN)
    bhs: Bhs = draw(values(cls))
    return bhs._replace(opcode=opcode | draw(st.sampled_from([0, 0x40, 0x80, 0xC0])))


@st.composite
def pdus(draw: st.DrawFn) -> Pdu:
    bhs = draw(headers())
    ahs = draw(segments) if isinstance(bhs, ScsiCommand) else ()
    return Pdu(bhs, draw(st.binary(max_size=70)), ahs)


def test_a_recorded_response_with_sense() -> None:
    pdu = decode(CHECK_CONDITION)
    assert isinstance(pdu.bhs, ScsiResponse)
    assert (pdu.bhs.status, pdu.bhs.itt, len(pdu.data)) == (2, 0x16, 98)
    assert bytes(pdu.data[:5]).hex() == "0060700005"
    assert encode(pdu) == CHECK_CONDITION
    assert encode(pdu, pad=False) == CHECK_CONDITION[:-2]


@given(headers())
def test_every_header_goes_through_the_dispatch(bhs: Bhs) -> None:
    wire = encode_bhs(bhs)
    into = bytearray(b"\xff" * 52)
    encode_bhs_into(into, 2, bhs)
    assert into == b"\xff\xff" + wire + b"\xff\xff"
    read = decode_bhs(into, 2)
    assert type(read) is type(bhs)
    assert read == bhs


@given(pdus(), st.booleans())
def test_round_trip_fills_the_lengths(pdu: Pdu, pad: bool) -> None:
    wire = encode(pdu, pad)
    ahs_length = len(build_ahs(pdu.ahs))
    assert len(wire) == BHS_LENGTH + ahs_length + len(pdu.data) + (-len(pdu.data) % 4 if pad else 0)
    read = decode(wire)
    assert read.bhs == pdu.bhs._replace(total_ahs_length=ahs_length // 4, data_segment_length=len(pdu.data))
    assert read.data == pdu.data
    assert read.ahs == pdu.ahs
    assert encode_header(pdu) == wire[: BHS_LENGTH + ahs_length]


@settings(max_examples=30)
@given(pdus())
def test_truncated_at_every_byte(pdu: Pdu) -> None:
    wire = encode(pdu, pad=False)
    for have in range(len(wire)):
        with pytest.raises(PduError):
            decode(wire[:have])
        with pytest.raises(PduError):
            decode(memoryview(wire)[:have])


@given(st.binary(max_size=200))
def test_garbage_parses_or_is_refused(wire: bytes) -> None:
    try:
        pdu = decode(wire)
    except PduError:
        return
    assert decode(encode(pdu)) == pdu


@settings(max_examples=200)
@given(KNOWN, st.binary(min_size=47, max_size=47), st.binary(max_size=120), st.integers(0, 3), st.integers(0, 130))
def test_garbage_behind_a_known_opcode(
    known: tuple[int, type[Any]], rest: bytes, body: bytes, words: int, length: int
) -> None:
    wire = bytearray(bytes([known[0]]) + rest + body)
    wire[4:8] = bytes([words]) + length.to_bytes(3, "big")
    try:
        pdu = decode(wire)
    except PduError:
        return
    assert len(pdu.data) == length
    assert 0 <= len(wire) - BHS_LENGTH - 4 * words - length <= 3


@pytest.mark.parametrize("opcode", UNKNOWN)
def test_unknown_opcodes(opcode: int) -> None:
    for immediate in (0, 0x40):
        with pytest.raises(PduError, match=f"unknown opcode {opcode:#04x}") as caught:
            decode(bytes([opcode | immediate]) + bytes(47))
        assert caught.value.reason == RejectReason.COMMAND_NOT_SUPPORTED


def test_the_high_bits_of_the_opcode_do_not_choose_the_class() -> None:
    for opcode, cls in BHS_TYPES.items():
        for bits in (0x00, 0x40, 0x80, 0xC0):
            bhs = decode_bhs(bytes([opcode | bits]) + bytes(47))
            assert type(bhs) is cls
            assert bhs.opcode & OPCODE_MASK == opcode


@pytest.mark.parametrize("surplus", [-5, -1, 0, 1, 3, 4, 100])
def test_the_message_length_is_the_truth(surplus: int) -> None:
    wire = encode(Pdu(NopOut(), bytes(10)), pad=False)
    wire = wire + bytes(surplus) if surplus >= 0 else wire[:surplus]
    if 0 <= surplus <= 3:
        assert decode(wire).data == bytes(10)
        return
    with pytest.raises(PduError, match=f"{abs(surplus)} bytes {'less' if surplus < 0 else 'more'}") as caught:
        decode(wire)
    assert caught.value.reason == RejectReason.INVALID_PDU_FIELD


def test_a_message_that_is_too_short_for_a_header() -> None:
    for wire in (b"", b"\x01", bytes(47)):
        with pytest.raises(PduError) as caught:
            decode(wire)
        assert caught.value.reason == RejectReason.PROTOCOL_ERROR


def test_the_data_limit() -> None:
    wire = encode(Pdu(NopOut(), bytes(513)))
    assert len(decode(wire, max_data=513).data) == 513
    with pytest.raises(PduError, match="513 bytes; at most 512") as caught:
        decode(wire, max_data=512)
    assert caught.value.reason == RejectReason.PROTOCOL_ERROR


def test_data_beyond_24_bits_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="at most 16777215"):
        encode_header(Pdu(NopOut(), memoryview(bytearray(MAX_DATA_SEGMENT_LENGTH + 1))))


def test_ahs_belong_to_commands_only() -> None:
    with pytest.raises(LocalProtocolError, match="NopOut"):
        encode(Pdu(NopOut(), ahs=(BidiReadLength(1),)))
    wire = bytearray(encode(Pdu(NopIn())) + build_ahs([BidiReadLength(1)]))
    wire[4] = 2
    with pytest.raises(PduError, match="NopIn with AHS") as caught:
        decode(wire)
    assert caught.value.reason == RejectReason.INVALID_PDU_FIELD


def test_ahs_that_end_beyond_the_message() -> None:
    wire = encode(Pdu(ScsiCommand(), ahs=(ExtendedCdb(b"abcd"),)))
    with pytest.raises(PduError, match="inside its AHS") as caught:
        decode(wire[:-1])
    assert caught.value.reason == RejectReason.INVALID_PDU_FIELD


def test_the_data_is_a_view_and_not_a_copy() -> None:
    wire = bytearray(encode(Pdu(NopOut(), b"abcd")))
    data = decode(wire).data
    assert isinstance(data, memoryview)
    wire[48:52] = b"wxyz"
    assert bytes(data) == b"wxyz"
    assert decode(encode(Pdu(NopOut()))).data == b""


def test_stale_lengths_are_overwritten() -> None:
    stale = NopOut(total_ahs_length=3, data_segment_length=77)
    assert decode(encode(Pdu(stale))).bhs == NopOut()
    assert decode(encode(Pdu(stale, b"x"))).bhs == NopOut(data_segment_length=1)


def test_data_may_be_any_view() -> None:
    pdu = Pdu(NopOut(), memoryview(b"0123456789")[2:5])
    assert encode(pdu)[48:] == b"234\0"
    assert padding(3) == b"\0"
    assert [len(padding(n)) for n in range(6)] == [0, 3, 2, 1, 0, 3]
