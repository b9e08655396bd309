"""Whole PDUs to bytes and back: BHS, AHS and data segment (RFC 7143 section 11), over a transport that keeps messages.

iSER has no digests and no length of its own (RFC 7145 section 9.1): the message's length is the truth, the two length
fields of the BHS must fit it, and padding of the data segment may be there or not.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple, NoReturn

from iser.errors import LocalProtocolError, PduError
from iser.pdu.ahs import Ahs, build_ahs, parse_ahs
from iser.pdu.bhs import BHS_LENGTH, BHS_TYPES, Bhs, ScsiCommand
from iser.pdu.const import OPCODE_MASK, RejectReason
from iser.pdu.layout import FastCodec, Parse, ReadBuffer, WriteBuffer

__all__ = [
    "CODECS",
    "MAX_DATA_SEGMENT_LENGTH",
    "MAX_PADDING",
    "Pdu",
    "decode",
    "decode_bhs",
    "encode",
    "encode_bhs",
    "encode_bhs_into",
    "encode_header",
    "padding",
]

MAX_DATA_SEGMENT_LENGTH: Final = 0xFFFFFF  # bytes: DataSegmentLength is 24 bits
MAX_PADDING: Final = 3  # bytes after a data segment

CODECS: Final[dict[type[Any], FastCodec[Any]]] = {cls: FastCodec(cls, BHS_LENGTH) for cls in BHS_TYPES.values()}

_BUILD: Final = {cls: codec.build for cls, codec in CODECS.items()}
_BUILD_INTO: Final = {cls: codec.build_into for cls, codec in CODECS.items()}
_PADDING: Final = (b"", bytes(3), bytes(2), bytes(1))  # by length modulo 4
_pack_lengths: Final = struct.Struct(">I").pack  # TotalAHSLength and DataSegmentLength are neighbours


class Pdu(NamedTuple):
    """A PDU.  ``data`` is the data segment without padding; :func:`encode` fills the length fields of ``bhs``."""

    bhs: Bhs
    data: bytes | memoryview = b""
    ahs: tuple[Ahs, ...] = ()


def padding(length: int) -> bytes:
    """The zero bytes that follow a data segment of ``length`` bytes, to a multiple of 4."""
    return _PADDING[length & 3]


def encode_bhs(bhs: Bhs) -> bytes:
    """The 48 bytes of ``bhs``, its length fields as they are; :class:`LocalProtocolError` for a field out of range."""
    wire: bytes = _BUILD[type(bhs)](bhs)
    return wire


def encode_bhs_into(buffer: WriteBuffer, offset: int, bhs: Bhs) -> None:
    """As :func:`encode_bhs`, into ``buffer`` at ``offset``; :class:`LocalProtocolError` also where there is no room."""
    _BUILD_INTO[type(bhs)](buffer, offset, bhs)


def encode_header(pdu: Pdu) -> bytes:
    """The BHS, its length fields filled, and the AHS: all that goes before the data segment, which is not copied.

    Raises :class:`LocalProtocolError` for a field out of range, AHS on a PDU other than a SCSI Command, and data
    beyond :data:`MAX_DATA_SEGMENT_LENGTH`.
    """
    bhs, data, ahs = pdu
    length = len(data)
    if length > MAX_DATA_SEGMENT_LENGTH:
        raise LocalProtocolError(f"a data segment of {length} bytes; give at most {MAX_DATA_SEGMENT_LENGTH}")
    wire = encode_bhs(bhs)
    if not ahs:
        if bhs.data_segment_length == length and not bhs.total_ahs_length:
            return wire
        return b"".join((wire[:4], _pack_lengths(length), wire[8:]))
    if not isinstance(bhs, ScsiCommand):
        raise LocalProtocolError(f"AHS on a {type(bhs).__name__}; only a ScsiCommand may carry them")
    segments = build_ahs(ahs)
    return b"".join((wire[:4], _pack_lengths(len(segments) << 22 | length), wire[8:], segments))


def encode(pdu: Pdu, pad: bool = True) -> bytes:
    """The whole PDU, with its data padded to a multiple of 4 bytes unless ``pad`` is false.  Raises as above."""
    header = encode_header(pdu)
    data = pdu.data
    if not data:
        return header
    return b"".join((header, data, _PADDING[len(data) & 3] if pad else b""))


def _unknown(buffer: ReadBuffer, offset: int = 0) -> NoReturn:
    raise PduError(
        f"the peer sent a PDU of unknown opcode {buffer[offset] & OPCODE_MASK:#04x}",
        RejectReason.COMMAND_NOT_SUPPORTED,
    )


def _parser_of(opcode: int) -> Parse[Any]:
    cls = BHS_TYPES.get(opcode)
    return CODECS[cls].parse if cls else _unknown


_PARSE: Final = tuple(map(_parser_of, range(OPCODE_MASK + 1)))


def decode_bhs(buffer: ReadBuffer, offset: int = 0) -> Bhs:
    """The BHS at ``offset``; :class:`PduError` for an unknown opcode and for fewer than 48 bytes."""
    try:
        parse = _PARSE[buffer[offset] & OPCODE_MASK]
    except IndexError:
        raise PduError(f"the peer sent a message without the {BHS_LENGTH} bytes of a BHS") from None
    bhs: Bhs = parse(buffer, offset)
    return bhs


def decode(buffer: ReadBuffer, max_data: int = MAX_DATA_SEGMENT_LENGTH) -> Pdu:
    """The PDU that fills ``buffer``; its ``data`` is a view of ``buffer``, or ``b""`` where there is none.

    ``max_data`` is the longest data segment to accept, in bytes.  Raises :class:`PduError` with the Reject reason:
    an unknown opcode is COMMAND_NOT_SUPPORTED; AHS that are malformed or not allowed here, and lengths that do not
    fit the message, are INVALID_PDU_FIELD; a message without a BHS, and data beyond ``max_data``, PROTOCOL_ERROR.
    """
    bhs = decode_bhs(buffer)
    words, length, start = bhs.total_ahs_length, bhs.data_segment_length, BHS_LENGTH
    ahs: tuple[Ahs, ...] = ()
    if words:
        start += 4 * words
        ahs = _decode_ahs(bhs, buffer, start)
    if length > max_data:
        raise PduError(f"the peer sent a data segment of {length} bytes; at most {max_data} are allowed")
    surplus = len(buffer) - start - length
    if not 0 <= surplus <= MAX_PADDING:
        raise _misfit(bhs, surplus)
    return Pdu(bhs, memoryview(buffer)[start : start + length] if length else b"", ahs)


def _decode_ahs(bhs: Bhs, buffer: ReadBuffer, end: int) -> tuple[Ahs, ...]:
    if not isinstance(bhs, ScsiCommand):
        raise PduError(f"the peer sent a {type(bhs).__name__} with AHS", RejectReason.INVALID_PDU_FIELD)
    if end > len(buffer):
        raise PduError("the peer sent a message that ends inside its AHS", RejectReason.INVALID_PDU_FIELD)
    return parse_ahs(memoryview(buffer)[BHS_LENGTH:end])


def _misfit(bhs: Bhs, surplus: int) -> PduError:
    what = f"{-surplus} bytes less" if surplus < 0 else f"{surplus} bytes more"
    return PduError(
        f"the peer sent a {type(bhs).__name__} with {what} than its length fields say", RejectReason.INVALID_PDU_FIELD
    )
