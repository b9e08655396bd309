"""Command descriptor blocks: one builder for each command, and parsers for what a target looks at.

The media commands of one length share one layout, whatever they do: flags in byte 1, an LBA, a number of blocks.
Builders raise UsageError for a value that does not fit its field.  Parsers take a CDB that is at least as long as
:func:`cdb_length` says and never fail.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from iser.errors import UsageError
from iser.scsi.const import Opcode, ServiceAction

__all__ = [
    "BYTCHK_BLOCK",
    "BYTCHK_DATA",
    "FLAG_DPO",
    "FLAG_FUA",
    "FLAG_IMMED",
    "NACA",
    "PROTECT_MASK",
    "READ_WRITE_LAYOUTS",
    "TRANSFER_PARSERS",
    "Inquiry",
    "ModeSense",
    "Transfer",
    "cdb_length",
    "inquiry",
    "mode_sense",
    "parse_inquiry",
    "parse_mode_sense",
    "read_blocks",
    "read_capacity_10",
    "read_capacity_16",
    "report_luns",
    "request_sense",
    "start_stop_unit",
    "synchronize_cache",
    "test_unit_ready",
    "transfer",
    "verify",
    "write_blocks",
]

PROTECT_MASK: Final = 0xE0  # RDPROTECT, WRPROTECT, VRPROTECT
NACA: Final = 0x04  # of the control byte: an error shall establish an ACA condition
FLAG_DPO: Final = 0x10
FLAG_FUA: Final = 0x08
FLAG_IMMED: Final = 0x02  # of SYNCHRONIZE CACHE
BYTCHK_DATA: Final = 0x02  # of VERIFY: compare with as many blocks as are verified
BYTCHK_BLOCK: Final = 0x06  # of VERIFY: compare every block with the one that is sent

_TRANSFER_6 = struct.Struct(">BBHBx")
_TRANSFER_10 = struct.Struct(">BBIxHx")
_TRANSFER_12 = struct.Struct(">BBIIxx")
_TRANSFER_16 = struct.Struct(">BBQIxx")
_LBA_10: Final = 0xFFFFFFFF  # the largest that a CDB of 10 bytes has room for
_BLOCKS_10: Final = 0xFFFF
_READ_10: Final = int(Opcode.READ_10)
_ATOMIC_16 = struct.Struct(">BBQHHxx")  # the atomic boundary before the length
_LENGTHS = (6, 10, 10, 0, 16, 12, 0, 0)  # by the group code, the top three bits of the operation code


class Transfer(NamedTuple):
    """The fields of a media command; ``flags`` is byte 1, and 0 for the 6-byte commands."""

    flags: int
    lba: int
    blocks: int


class Inquiry(NamedTuple):
    """The fields of INQUIRY (SPC-4 6.6)."""

    evpd: bool
    page: int
    allocation_length: int


class ModeSense(NamedTuple):
    """The fields of MODE SENSE (SPC-4 6.13, 6.14); ``page_control`` 0 current, 1 changeable, 2 default, 3 saved."""

    dbd: bool
    llbaa: bool
    page_control: int
    page: int
    subpage: int
    allocation_length: int


def cdb_length(opcode: int) -> int:
    """Bytes of a CDB with this operation code; 0 where the code does not tell (variable length, vendor specific)."""
    return _LENGTHS[opcode >> 5]


def _parse_6(cdb: bytes) -> tuple[int, int, int]:
    _, high, low, blocks = _TRANSFER_6.unpack_from(cdb)
    return 0, (high & 0x1F) << 16 | low, blocks or 256  # 0 means 256 here, and only here (SBC-3 5.7)


def _parse_10(cdb: bytes) -> tuple[int, int, int]:
    return _TRANSFER_10.unpack_from(cdb)[1:]


def _parse_12(cdb: bytes) -> tuple[int, int, int]:
    return _TRANSFER_12.unpack_from(cdb)[1:]


def _parse_16(cdb: bytes) -> tuple[int, int, int]:
    return _TRANSFER_16.unpack_from(cdb)[1:]


def _parse_atomic(cdb: bytes) -> tuple[int, int, int]:
    flags, lba, _, blocks = _ATOMIC_16.unpack_from(cdb)[1:]
    return flags, lba, blocks


def _parse_compare(cdb: bytes) -> tuple[int, int, int]:
    flags, lba, _ = _parse_16(cdb)
    return flags, lba, cdb[13]


#: How to take (flags, lba, blocks) from the CDB of each media command: plain tuples, for this runs once per I/O.
TRANSFER_PARSERS: Final[dict[int, Callable[[bytes], tuple[int, int, int]]]] = {
    Opcode.READ_6: _parse_6,
    Opcode.WRITE_6: _parse_6,
    Opcode.READ_10: _parse_10,
    Opcode.WRITE_10: _parse_10,
    Opcode.VERIFY_10: _parse_10,
    Opcode.WRITE_AND_VERIFY_10: _parse_10,
    Opcode.WRITE_SAME_10: _parse_10,
    Opcode.PRE_FETCH_10: _parse_10,
    Opcode.SYNCHRONIZE_CACHE_10: _parse_10,
    Opcode.READ_12: _parse_12,
    Opcode.WRITE_12: _parse_12,
    Opcode.VERIFY_12: _parse_12,
    Opcode.WRITE_AND_VERIFY_12: _parse_12,
    Opcode.READ_16: _parse_16,
    Opcode.WRITE_16: _parse_16,
    Opcode.VERIFY_16: _parse_16,
    Opcode.WRITE_AND_VERIFY_16: _parse_16,
    Opcode.WRITE_SAME_16: _parse_16,
    Opcode.ORWRITE_16: _parse_16,
    Opcode.PRE_FETCH_16: _parse_16,
    Opcode.WRITE_ATOMIC_16: _parse_atomic,
    Opcode.COMPARE_AND_WRITE: _parse_compare,
    Opcode.SYNCHRONIZE_CACHE_16: _parse_16,
}


def _layout_6(cdb: bytes) -> tuple[int, int, int, int]:
    return *_parse_6(cdb), cdb[5]


#: How to take (flags, lba, blocks, control) from the CDB of a READ or WRITE, at the least cost.
READ_WRITE_LAYOUTS: Final[dict[int, Callable[[bytes], tuple[int, ...]]]] = {
    Opcode.READ_6: _layout_6,
    Opcode.WRITE_6: _layout_6,
    Opcode.READ_10: struct.Struct(">xBIxHB").unpack_from,
    Opcode.WRITE_10: struct.Struct(">xBIxHB").unpack_from,
    Opcode.READ_12: struct.Struct(">xBIIxB").unpack_from,
    Opcode.WRITE_12: struct.Struct(">xBIIxB").unpack_from,
    Opcode.READ_16: struct.Struct(">xBQIxB").unpack_from,
    Opcode.WRITE_16: struct.Struct(">xBQIxB").unpack_from,
}


def transfer(opcode: Opcode, lba: int, blocks: int, flags: int = 0) -> bytes:
    """The CDB of any media command.  ``blocks`` of a 6-byte command is 1 to 256."""
    layout = {6: _TRANSFER_6, 10: _TRANSFER_10, 12: _TRANSFER_12, 16: _TRANSFER_16}[cdb_length(opcode)]
    try:
        if layout is not _TRANSFER_6:
            return layout.pack(opcode, flags, lba, blocks)
        if lba >> 21 or not 1 <= blocks <= 256 or flags:
            raise UsageError(f"{opcode.name} takes an LBA below 2^21 and 1 to 256 blocks, not {blocks} at {lba}")
        return layout.pack(opcode, lba >> 16, lba & 0xFFFF, blocks & 0xFF)
    except struct.error:
        raise UsageError(f"{opcode.name} cannot address {blocks} blocks at LBA {lba}") from None


def _shortest(ten: Opcode, sixteen: Opcode, lba: int, blocks: int, flags: int) -> bytes:
    if 0 <= lba <= _LBA_10 and 0 <= blocks <= _BLOCKS_10:
        return _TRANSFER_10.pack(ten, flags, lba, blocks)
    return transfer(sixteen, lba, blocks, flags)


def read_blocks(lba: int, blocks: int, *, fua: bool = False) -> bytes:
    """READ(10), or READ(16) where that is too small."""
    if not fua and 0 <= lba <= _LBA_10 and 0 <= blocks <= _BLOCKS_10:
        return _TRANSFER_10.pack(_READ_10, 0, lba, blocks)  # as below: a call less for what is done most
    return _shortest(Opcode.READ_10, Opcode.READ_16, lba, blocks, FLAG_FUA if fua else 0)


def write_blocks(lba: int, blocks: int, *, fua: bool = False) -> bytes:
    """WRITE(10), or WRITE(16) where that is too small."""
    return _shortest(Opcode.WRITE_10, Opcode.WRITE_16, lba, blocks, FLAG_FUA if fua else 0)


def verify(lba: int, blocks: int, *, bytchk: int = 0) -> bytes:
    """VERIFY(10) or (16); ``bytchk`` is 0, BYTCHK_DATA or BYTCHK_BLOCK."""
    return _shortest(Opcode.VERIFY_10, Opcode.VERIFY_16, lba, blocks, bytchk)


def synchronize_cache(lba: int = 0, blocks: int = 0, *, immed: bool = False) -> bytes:
    """SYNCHRONIZE CACHE(10) or (16); 0 blocks means up to the end."""
    flags = FLAG_IMMED if immed else 0
    return _shortest(Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16, lba, blocks, flags)


def _pack(layout: str, *values: int) -> bytes:
    try:
        return struct.pack(layout, *values)
    except struct.error as error:
        raise UsageError(f"{Opcode(values[0]).name}: {error}") from None


def test_unit_ready() -> bytes:
    """TEST UNIT READY."""
    return bytes(6)


def request_sense(allocation_length: int = 252, *, descriptor: bool = False) -> bytes:
    """REQUEST SENSE."""
    return _pack(">BBxxBx", Opcode.REQUEST_SENSE, descriptor, allocation_length)


def inquiry(allocation_length: int = 255, page: int | None = None) -> bytes:
    """INQUIRY: the standard data, or the VPD ``page``."""
    return _pack(">BBBHx", Opcode.INQUIRY, page is not None, page or 0, allocation_length)


def parse_inquiry(cdb: bytes) -> Inquiry:
    """Take INQUIRY apart."""
    return Inquiry(bool(cdb[1] & 1), cdb[2], int.from_bytes(cdb[3:5], "big"))


def report_luns(allocation_length: int = 4096, select_report: int = 0) -> bytes:
    """REPORT LUNS; ``select_report`` 0 plain LUNs, 1 well known ones, 2 both."""
    return _pack(">BxBxxxIxx", Opcode.REPORT_LUNS, select_report, allocation_length)


def read_capacity_10() -> bytes:
    """READ CAPACITY(10)."""
    return _pack(">B9x", Opcode.READ_CAPACITY_10)


def read_capacity_16(allocation_length: int = 32) -> bytes:
    """READ CAPACITY(16)."""
    return _pack(">BB8xIxx", Opcode.SERVICE_ACTION_IN_16, ServiceAction.READ_CAPACITY_16, allocation_length)


def mode_sense(
    page: int, allocation_length: int = 192, *, subpage: int = 0, dbd: bool = False, ten: bool = False
) -> bytes:
    """MODE SENSE(6), or (10) when ``ten``, for the current values of ``page``."""
    opcode, layout = (Opcode.MODE_SENSE_10, ">BBBB3xHx") if ten else (Opcode.MODE_SENSE_6, ">BBBBBx")
    return _pack(layout, opcode, dbd << 3, page, subpage, allocation_length)


def parse_mode_sense(cdb: bytes) -> ModeSense:
    """Take MODE SENSE(6) or (10) apart."""
    ten = cdb[0] == Opcode.MODE_SENSE_10
    length = int.from_bytes(cdb[7:9], "big") if ten else cdb[4]
    return ModeSense(bool(cdb[1] & 8), ten and bool(cdb[1] & 16), cdb[2] >> 6, cdb[2] & 0x3F, cdb[3], length)


def start_stop_unit(*, start: bool = True, immed: bool = False) -> bytes:
    """START STOP UNIT."""
    return _pack(">BBxxBx", Opcode.START_STOP_UNIT, immed, start)
