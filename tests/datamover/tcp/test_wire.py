"""The struct forms of Data-In and Data-Out against their declarations, and the digest against a known vector."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from iser.datamover.tcp.wire import BHS_LENGTH, DATA_IN, DATA_OUT, PADDING, SCSI_RESPONSE, digest
from iser.pdu import BHS_LENGTH as DECLARED_LENGTH
from iser.pdu import DataIn, DataOut, ScsiResponse, encode_bhs, padding

U8, U24, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 24, 32, 64))


@settings(max_examples=50, deadline=None)
@given(U8, U8, U24, U64, st.tuples(*[U32] * 8))
def test_a_data_in_is_the_declared_one(flags: int, status: int, length: int, lun: int, words: tuple[int, ...]) -> None:
    itt, ttt, stat_sn, exp, most, data_sn, offset, residual = words
    declared = DataIn(0x25, flags, status, 0, length, lun, itt, ttt, stat_sn, exp, most, data_sn, offset, residual)
    assert DATA_IN.pack(0x25, flags, status, length, lun, *words) == encode_bhs(declared)


@settings(max_examples=50, deadline=None)
@given(U8, U24, U64, st.tuples(*[U32] * 5))
def test_a_data_out_is_the_declared_one(flags: int, length: int, lun: int, words: tuple[int, ...]) -> None:
    itt, ttt, stat_sn, data_sn, offset = words
    declared = DataOut(0x05, flags, 0, length, lun, itt, ttt, stat_sn, data_sn, offset)
    assert DATA_OUT.pack(0x05, flags, length, lun, *words) == encode_bhs(declared)


@settings(max_examples=50, deadline=None)
@given(st.tuples(U8, U8, U8), U24, st.tuples(*[U32] * 8))
def test_a_scsi_response_is_the_declared_one(octets: tuple[int, int, int], length: int, words: tuple[int, ...]) -> None:
    declared = ScsiResponse(0x21, *octets, 0, length, *words)
    assert SCSI_RESPONSE.pack(0x21, *octets, length, *words) == encode_bhs(declared)


def test_lengths_and_padding_are_the_declared_ones() -> None:
    assert BHS_LENGTH == DECLARED_LENGTH == DATA_IN.size == DATA_OUT.size == SCSI_RESPONSE.size
    assert [PADDING[length & 3] for length in range(5)] == [padding(length) for length in range(5)]


def test_the_digest_is_that_of_rfc_7143_annex_a_4() -> None:
    assert digest(bytes(32)) == bytes.fromhex("aa36918a")
    assert digest(b"\xff" * 16, b"\xff" * 16) == bytes.fromhex("43aba862")
    assert digest(bytes(range(32))) == bytes.fromhex("4e79dd46")
