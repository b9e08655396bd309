"""Sense data: both formats there and back, real bytes, and bytes that make no sense."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import PduError
from iser.scsi import codes
from iser.scsi.codes import SenseCode
from iser.scsi.const import SenseKey
from iser.scsi.sense import MAX_SENSE, Sense, build_sense, decode_sense, scsi_error

keys = st.sampled_from(SenseKey)
byte = st.integers(0, 0xFF)


@settings(max_examples=150)
@given(keys, byte, byte, st.none() | st.integers(0, 2**64 - 1), st.none() | st.integers(0, 0xFFFF), st.booleans())
def test_round_trip(
    key: SenseKey, asc: int, ascq: int, information: int | None, field: int | None, descriptor: bool
) -> None:
    code = SenseCode(key, asc, ascq)
    raw = build_sense(code, information=information, field=field, descriptor=descriptor)
    decoded = decode_sense(raw)
    assert (decoded.key, decoded.asc, decoded.ascq, decoded.deferred) == (key, asc, ascq, False)
    fits = information is not None and (descriptor or information < 2**32)
    assert decoded.information == (information if fits else None)
    assert decoded.field == (field if key is SenseKey.ILLEGAL_REQUEST else None)
    assert len(raw) <= 28  # with its length prefix it stays below the 128 bytes that every initiator takes


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(raw: bytes) -> None:
    try:
        decoded = decode_sense(raw)
    except PduError as error:
        assert "sense data" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert 0 <= decoded.key <= 15
        assert decoded.text


@pytest.mark.parametrize("descriptor", [False, True])
def test_every_truncation_decodes_what_is_left(descriptor: bool) -> None:
    raw = build_sense(codes.LBA_OUT_OF_RANGE, information=77, field=2, descriptor=descriptor)
    for length in range(1, len(raw)):
        decoded = decode_sense(raw[:length])
        assert decoded.key in (0, SenseKey.ILLEGAL_REQUEST)
        assert decoded.field in (None, 2)
        assert decoded.information in (None, 77)
    with pytest.raises(PduError, match="of 0 bytes"):
        decode_sense(b"")


def test_sense_recorded_from_lio_over_siw() -> None:
    raw = bytes.fromhex("700005000000000a0000000020000000") + bytes(80)
    decoded = decode_sense(raw)
    assert decoded.text == "ILLEGAL REQUEST, invalid operation code (5/20/00)"
    assert (decoded.information, decoded.field) == (None, None)


def test_bytes_past_the_additional_length_do_not_count() -> None:
    raw = bytearray(build_sense(codes.INVALID_FIELD_IN_CDB, field=5))
    raw[7] = 6  # ends after the qualifier
    assert decode_sense(bytes(raw)).field is None
    assert decode_sense(bytes(raw) + b"\xff" * MAX_SENSE).asc == 0x24


def test_deferred_errors_are_marked() -> None:
    raw = b"\x71" + build_sense(codes.WRITE_ERROR)[1:]
    assert decode_sense(raw).deferred
    assert decode_sense(raw).text.endswith("deferred from an earlier command")
    assert decode_sense(b"\x73" + build_sense(codes.WRITE_ERROR, descriptor=True)[1:]).deferred


def test_unknown_descriptors_are_passed_over() -> None:
    known = build_sense(codes.READ_ERROR, information=9, descriptor=True)
    raw = bytearray(known[:8] + b"\x09\x02\xaa\xbb" + known[8:])
    raw[7] = len(raw) - 8
    assert decode_sense(bytes(raw)).information == 9


def test_the_exception_tells_status_and_sense_in_words() -> None:
    error = scsi_error(2, build_sense(codes.READ_ERROR, information=5), "READ(10) of 8 blocks at LBA 0")
    assert str(error) == (
        "READ(10) of 8 blocks at LBA 0 ended in CHECK CONDITION: "
        "MEDIUM ERROR, unrecovered read error (3/11/00), information 5"
    )
    assert (error.status, error.sense_key, error.asc, error.ascq, len(error.sense)) == (2, 3, 0x11, 0, 18)


def test_the_exception_copes_with_whatever_a_peer_sends() -> None:
    assert str(scsi_error(0x28)) == "the command ended in TASK SET FULL"
    assert str(scsi_error(0x77)) == "the command ended in status 0x77"
    odd = scsi_error(2, b"\x00\x01")
    assert "response code 0x00" in str(odd)
    assert (odd.sense, odd.sense_key) == (b"\x00\x01", 0)


def test_a_reserved_sense_key_has_words_too() -> None:
    assert Sense(0x0C, 0x29, 0).text == "reserved sense key, power on, reset or bus device reset occurred (c/29/00)"


def test_progress_and_parameter_pointers() -> None:
    code = SenseCode(SenseKey.NOT_READY, 0x04, 0x1B)
    assert build_sense(code, progress=0x8000)[15:18].hex() == "808000"
    assert build_sense(code, progress=70000)[15:18].hex() == "80ffff"
    assert build_sense(code, parameter=20, descriptor=True)[8:].hex() == "0206000080001400"
    assert decode_sense(build_sense(code, parameter=20)).field is None
