"""Additional header segments, RFC 7143 section 11.2.2.

On the wire each is ``u16 AHSLength | u8 AHSType | AHSLength bytes | 0 to 3 bytes of padding``; the length leaves out
the first three bytes and the padding, and the first specific byte is reserved in both known types.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from iser.errors import LocalProtocolError, PduError
from iser.pdu.bhs import ScsiCommand
from iser.pdu.const import RejectReason
from iser.pdu.layout import ReadBuffer

__all__ = [
    "MAX_AHS_LENGTH",
    "MAX_EXTENDED_CDB",
    "Ahs",
    "BidiReadLength",
    "ExtendedCdb",
    "build_ahs",
    "full_cdb",
    "parse_ahs",
]

MAX_AHS_LENGTH: Final = 1020  # bytes of all AHS of a PDU: TotalAHSLength is 8 bits and counts words
MAX_EXTENDED_CDB: Final = 1016  # bytes of a CDB after its first 16 that fit into MAX_AHS_LENGTH

TYPE_MASK: Final = 0x3F
TYPE_EXTENDED_CDB: Final = 1
TYPE_BIDI_READ_LENGTH: Final = 2

_HEADER: Final = struct.Struct(">HBx")  # up to and with the reserved byte that both types begin with
_BIDI: Final = struct.Struct(">HBxI")
_BIDI_AHS_LENGTH: Final = 5


class ExtendedCdb(NamedTuple):
    """Type 1, section 11.2.2.3: ``cdb`` is what follows the CDB's first 16 bytes, 1 to 1016 bytes."""

    cdb: bytes


class BidiReadLength(NamedTuple):
    """Type 2, section 11.2.2.4: how many bytes a bidirectional command expects to read."""

    length: int


Ahs = ExtendedCdb | BidiReadLength


def parse_ahs(buffer: ReadBuffer) -> tuple[Ahs, ...]:
    """The segments in ``buffer``, which holds all AHS of one PDU and nothing else.

    Raises :class:`PduError` for a segment that is cut short, is of an unknown type, does not have its type's length
    or comes twice, and for more than :data:`MAX_AHS_LENGTH` bytes.
    """
    if len(buffer) > MAX_AHS_LENGTH:
        raise _bad(f"{len(buffer)} bytes of AHS; at most {MAX_AHS_LENGTH} are allowed")
    found: list[Ahs] = []
    offset = 0
    while offset < len(buffer):
        if offset + _HEADER.size > len(buffer):
            raise _bad("an AHS that ends inside its header")
        length, kind = _HEADER.unpack_from(buffer, offset)
        end = offset + 3 + length
        padded = end + (-end & 3)
        if padded > len(buffer):
            raise _bad(f"an AHS of {length} bytes that ends beyond TotalAHSLength")
        segment = _parse_segment(kind & TYPE_MASK, length, buffer, offset)
        if any(type(segment) is type(other) for other in found):
            raise _bad(f"two AHS of type {kind & TYPE_MASK} in one PDU")
        found.append(segment)
        offset = padded
    return tuple(found)


def _parse_segment(kind: int, length: int, buffer: ReadBuffer, offset: int) -> Ahs:
    if kind == TYPE_EXTENDED_CDB:
        if length < 2:
            raise _bad(f"an extended CDB with AHSLength {length}; it is at least 2")
        return ExtendedCdb(bytes(buffer[offset + 4 : offset + 3 + length]))
    if kind == TYPE_BIDI_READ_LENGTH:
        if length != _BIDI_AHS_LENGTH:
            raise _bad(f"a bidirectional read length with AHSLength {length}; it is 5")
        return BidiReadLength(_BIDI.unpack_from(buffer, offset)[2])
    raise _bad(f"an AHS of unknown type {kind}")


def _bad(what: str) -> PduError:
    return PduError(f"the peer sent {what}", RejectReason.INVALID_PDU_FIELD)


def build_ahs(segments: Iterable[Ahs]) -> bytes:
    """The wire form of ``segments``, each padded to a multiple of 4 bytes.

    Raises :class:`LocalProtocolError` for a segment out of its range, and for more than :data:`MAX_AHS_LENGTH` bytes.
    """
    wire = b"".join(map(_build_segment, segments))
    if len(wire) > MAX_AHS_LENGTH:
        raise LocalProtocolError(f"{len(wire)} bytes of AHS; give at most {MAX_AHS_LENGTH}")
    return wire


def _build_segment(segment: Ahs) -> bytes:
    if isinstance(segment, ExtendedCdb):
        extra = len(segment.cdb)
        if not 0 < extra <= MAX_EXTENDED_CDB:
            raise LocalProtocolError(f"an extended CDB of {extra} bytes; give 1 to {MAX_EXTENDED_CDB}")
        return _HEADER.pack(extra + 1, TYPE_EXTENDED_CDB) + segment.cdb + bytes(-extra & 3)
    try:
        return _BIDI.pack(_BIDI_AHS_LENGTH, TYPE_BIDI_READ_LENGTH, segment.length)
    except struct.error as error:
        raise LocalProtocolError(f"bidirectional read length {segment.length}: give 0 to 4294967295") from error


def full_cdb(bhs: ScsiCommand, ahs: tuple[Ahs, ...]) -> bytes:
    """The whole CDB of a command: the 16 bytes of its BHS, and those of an :class:`ExtendedCdb` if there is one."""
    if ahs:
        for segment in ahs:
            if isinstance(segment, ExtendedCdb):
                return bhs.cdb + segment.cdb
    return bhs.cdb
