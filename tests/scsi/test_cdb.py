"""CDB builders against the parsers a target uses, and against bytes written down by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import UsageError
from iser.scsi import cdb
from iser.scsi.const import Opcode

LIMITS = {6: (2**21 - 1, 256), 10: (2**32 - 1, 2**16 - 1), 12: (2**32 - 1, 2**32 - 1), 16: (2**64 - 1, 2**32 - 1)}


@given(st.data(), st.sampled_from(sorted(cdb.TRANSFER_PARSERS)))
def test_media_commands_round_trip(data: st.DataObject, opcode: int) -> None:
    length = cdb.cdb_length(opcode)
    max_lba, max_blocks = LIMITS[length]
    lba = data.draw(st.integers(0, max_lba))
    max_blocks = {Opcode.WRITE_ATOMIC_16: 0xFFFF, Opcode.COMPARE_AND_WRITE: 0xFF}.get(Opcode(opcode), max_blocks)
    blocks = data.draw(st.integers(1 if length == 6 else 0, max_blocks))
    flags = 0 if length == 6 else data.draw(st.integers(0, 255))
    built = cdb.transfer(Opcode(opcode), lba, blocks, flags)
    assert len(built) == length
    assert built[0] == opcode
    assert cdb.TRANSFER_PARSERS[opcode](built.ljust(16, b"\0")) == (flags, lba, blocks)


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (cdb.test_unit_ready(), "000000000000"),
        (cdb.request_sense(18), "030000001200"),
        (cdb.request_sense(252, descriptor=True), "03010000fc00"),
        (cdb.inquiry(36), "120000002400"),
        (cdb.inquiry(0x1FF, 0x83), "12018301ff00"),
        (cdb.report_luns(4096), "a00000000000000010000000"),
        (cdb.report_luns(16, 2), "a00002000000000000100000"),
        (cdb.read_capacity_10(), "25000000000000000000"),
        (cdb.read_capacity_16(), "9e100000000000000000000000200000"),
        (cdb.read_blocks(0, 3), "28000000000000000300"),
        (cdb.write_blocks(1, 1, fua=True), "2a080000000100000100"),
        (cdb.read_blocks(2**32, 1), "88000000000100000000000000010000"),
        (cdb.write_blocks(0, 65536), "8a000000000000000000000100000000"),
        (cdb.transfer(Opcode.READ_6, 0x12345, 256), "080123450000"),
        (cdb.transfer(Opcode.WRITE_6, 0x1FFFFF, 1), "0a1fffff0100"),
        (cdb.verify(5, 2, bytchk=cdb.BYTCHK_DATA), "2f020000000500000200"),
        (cdb.synchronize_cache(), "35000000000000000000"),
        (cdb.synchronize_cache(2**40, 9, immed=True), "91020000010000000000000000090000"),
        (cdb.mode_sense(0x3F), "1a003f00c000"),
        (cdb.mode_sense(0x08, 300, dbd=True, ten=True), "5a080800000000012c00"),
        (cdb.start_stop_unit(), "1b0000000100"),
        (cdb.start_stop_unit(start=False, immed=True), "1b0100000000"),
    ],
)
def test_bytes_of_each_command(built: bytes, expected: str) -> None:
    assert built.hex() == expected


@given(st.booleans(), st.integers(0, 255), st.integers(0, 65535))
def test_inquiry_round_trip(evpd: bool, page: int, length: int) -> None:
    built = cdb.inquiry(length, page if evpd else None)
    assert cdb.parse_inquiry(built) == (evpd, page if evpd else 0, length)


@given(st.booleans(), st.integers(0, 63), st.integers(0, 255), st.integers(0, 255), st.booleans())
def test_mode_sense_round_trip(ten: bool, page: int, subpage: int, length: int, dbd: bool) -> None:
    built = cdb.mode_sense(page, length, subpage=subpage, dbd=dbd, ten=ten)
    assert cdb.parse_mode_sense(built) == (dbd, False, 0, page, subpage, length)


@pytest.mark.parametrize(
    ("opcode", "lba", "blocks"),
    [
        (Opcode.READ_6, 2**21, 1),
        (Opcode.READ_6, 0, 0),
        (Opcode.READ_6, 0, 257),
        (Opcode.READ_6, -1, 1),
        (Opcode.READ_10, 2**32, 1),
        (Opcode.WRITE_10, 0, 2**16),
        (Opcode.WRITE_12, 0, 2**32),
        (Opcode.READ_16, 2**64, 1),
        (Opcode.READ_16, -1, 1),
    ],
)
def test_what_does_not_fit_is_refused(opcode: Opcode, lba: int, blocks: int) -> None:
    with pytest.raises(UsageError, match=opcode.name):
        cdb.transfer(opcode, lba, blocks)


def test_allocation_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="INQUIRY"):
        cdb.inquiry(65536)
    with pytest.raises(UsageError, match="MODE_SENSE_6"):
        cdb.mode_sense(8, 256)
    with pytest.raises(UsageError, match="READ_16"):
        cdb.read_blocks(-1, 1)


def test_length_by_group() -> None:
    assert [cdb.cdb_length(code) for code in (0x00, 0x28, 0x5A, 0x7F, 0x88, 0xA0, 0xC1)] == [6, 10, 10, 0, 16, 12, 0]
