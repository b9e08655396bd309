"""Additional header segments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import LocalProtocolError, PduError
from iser.pdu.ahs import (
    MAX_AHS_LENGTH,
    MAX_EXTENDED_CDB,
    Ahs,
    BidiReadLength,
    ExtendedCdb,
    build_ahs,
    full_cdb,
    parse_ahs,
)
from iser.pdu.bhs import ScsiCommand
from iser.pdu.const import RejectReason

cdbs = st.builds(ExtendedCdb, st.binary(min_size=1, max_size=300))
bidis = st.builds(BidiReadLength, st.integers(0, 0xFFFFFFFF))
segments = st.one_of(st.just(()), st.tuples(cdbs), st.tuples(bidis), st.tuples(cdbs, bidis), st.tuples(bidis, cdbs))


def test_layout() -> None:
    assert build_ahs([ExtendedCdb(b"abcde")]).hex() == "00060100" + b"abcde".hex() + "000000"
    assert build_ahs([BidiReadLength(0x01020304)]).hex() == "0005020001020304"


@given(segments)
def test_round_trip(given_segments: tuple[Ahs, ...]) -> None:
    wire = build_ahs(given_segments)
    assert len(wire) % 4 == 0
    assert parse_ahs(wire) == given_segments
    assert parse_ahs(memoryview(wire)) == given_segments


def test_reserved_bits_bytes_and_padding_are_ignored() -> None:
    assert parse_ahs(bytes.fromhex("0003c1ff 6162ffff")) == (ExtendedCdb(b"ab"),)
    assert parse_ahs(bytes.fromhex("0005c2ff 00000007")) == (BidiReadLength(7),)


@given(segments.filter(bool))
@settings(max_examples=30)
def test_truncated_at_every_byte(given_segments: tuple[Ahs, ...]) -> None:
    wire = build_ahs(given_segments)
    first = len(build_ahs(given_segments[:1]))
    for have in range(1, len(wire)):
        if have == first:
            assert parse_ahs(wire[:have]) == given_segments[:1]
            continue
        with pytest.raises(PduError) as caught:
            parse_ahs(wire[:have])
        assert caught.value.reason == RejectReason.INVALID_PDU_FIELD


@given(st.binary(max_size=MAX_AHS_LENGTH + 8))
def test_garbage_parses_or_is_refused(wire: bytes) -> None:
    try:
        found = parse_ahs(wire)
    except PduError:
        return
    assert len(build_ahs(found)) == len(wire)


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        ("00010100", "AHSLength 1"),
        ("00000100", "AHSLength 0"),
        ("0004020001020304", "AHSLength 4"),
        ("000602000102030405000000", "AHSLength 6"),
        ("00050300 00000000", "unknown type 3"),
        ("00050000 00000000", "unknown type 0"),
        ("ffff0100 00000000", "ends beyond"),
        ("00050200 00000001 00050200 00000002", "two AHS of type 2"),
        ("00020100 61", "ends inside|ends beyond"),
    ],
)
def test_malformed_segments_are_refused(wire: str, why: str) -> None:
    with pytest.raises(PduError, match=why) as caught:
        parse_ahs(bytes.fromhex(wire))
    assert caught.value.reason == RejectReason.INVALID_PDU_FIELD


def test_limits() -> None:
    longest = ExtendedCdb(bytes(MAX_EXTENDED_CDB))
    wire = build_ahs([longest])
    assert len(wire) == MAX_AHS_LENGTH
    assert parse_ahs(wire) == (longest,)
    with pytest.raises(LocalProtocolError, match="1028 bytes of AHS"):
        build_ahs([longest, BidiReadLength(1)])
    with pytest.raises(PduError, match="at most 1020"):
        parse_ahs(wire + build_ahs([BidiReadLength(1)]))


@pytest.mark.parametrize(
    "segment",
    [ExtendedCdb(b""), ExtendedCdb(bytes(MAX_EXTENDED_CDB + 1)), BidiReadLength(-1), BidiReadLength(1 << 32)],
)
def test_segments_out_of_range_are_not_built(segment: Ahs) -> None:
    with pytest.raises(LocalProtocolError):
        build_ahs([segment])


def test_full_cdb() -> None:
    command = ScsiCommand(cdb=bytes(range(16)))
    assert full_cdb(command, ()) == bytes(range(16))
    assert full_cdb(command, (BidiReadLength(1),)) == bytes(range(16))
    assert full_cdb(command, (BidiReadLength(1), ExtendedCdb(b"more"))) == bytes(range(16)) + b"more"
