"""Wire formats of MPA FPDUs, DDP, RDMAP and the Terminate message: each layout and code declared once.

Sources: RFC 5044 section 4 (FPDU), RFC 5041 section 4 (DDP headers), RFC 5040 sections 4 and 7 (RDMAP, error codes).
Offsets are those of the whole FPDU: every header struct starts with the 2-byte ULPDU length.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from iser.errors import TerminateError

__all__ = [
    "CTRL_LAST",
    "CTRL_MASK",
    "CTRL_TAGGED",
    "MAX_ULPDU",
    "MSN_MASK",
    "OP_READ_REQUEST",
    "OP_READ_RESPONSE",
    "OP_SEND",
    "OP_SEND_INV",
    "OP_SEND_SE",
    "OP_SEND_SE_INV",
    "OP_TERMINATE",
    "OP_WRITE",
    "QN_READ_REQUEST",
    "QN_SEND",
    "QN_TERMINATE",
    "READ_REQUEST",
    "READ_REQUEST_ULPDU",
    "TAGGED",
    "TAGGED_HEADER",
    "TERMINATE_CONTROL",
    "UNTAGGED",
    "UNTAGGED_HEADER",
    "Fault",
    "Terminate",
    "build_terminate",
    "fault",
    "fpdu_size",
    "parse_terminate",
    "segment_header",
]

#: ULPDU length, DDP and RDMAP control, STag, tagged offset; data follows at 16.
TAGGED: Final = struct.Struct(">HHIQ")
#: ULPDU length, DDP and RDMAP control, STag to invalidate, queue, message number, message offset; data at 20.
UNTAGGED: Final = struct.Struct(">HHIIII")
#: Sink STag, sink TO, size in bytes, source STag, source TO; stands after an untagged header.
READ_REQUEST: Final = struct.Struct(">IQIIQ")
#: Layer and error type, code, header-present bits, reserved; stands after an untagged header.
TERMINATE_CONTROL: Final = struct.Struct(">BBBx")

TAGGED_HEADER: Final = 14  # bytes of ULPDU before the data of a tagged segment
UNTAGGED_HEADER: Final = 18  # likewise, untagged
READ_REQUEST_ULPDU: Final = UNTAGGED_HEADER + READ_REQUEST.size
MAX_ULPDU: Final = 0xFFFF
MSN_MASK: Final = 0xFFFFFFFF

CTRL_TAGGED: Final = 0x8000
CTRL_LAST: Final = 0x4000
#: The tagged bit, both versions and the opcode; the rest is the last flag and reserved bits, which are not checked.
CTRL_MASK: Final = 0x83CF
_VERSIONS: Final = 0x0140  # DDP version 1, RDMAP version 1

# Control words as CTRL_MASK leaves them.
OP_WRITE: Final = CTRL_TAGGED | _VERSIONS | 0x0
OP_READ_REQUEST: Final = _VERSIONS | 0x1
OP_READ_RESPONSE: Final = CTRL_TAGGED | _VERSIONS | 0x2
OP_SEND: Final = _VERSIONS | 0x3
OP_SEND_INV: Final = _VERSIONS | 0x4
OP_SEND_SE: Final = _VERSIONS | 0x5
OP_SEND_SE_INV: Final = _VERSIONS | 0x6
OP_TERMINATE: Final = _VERSIONS | 0x7

QN_SEND: Final = 0
QN_READ_REQUEST: Final = 1
QN_TERMINATE: Final = 2

_MASK_M: Final = 0x80  # the DDP segment length is attached
_MASK_D: Final = 0x40  # the DDP header is attached
_MASK_R: Final = 0x20  # the RDMAP Read Request header is attached
_RFC_BITS: Final = _MASK_M | _MASK_D | _MASK_R
_MIRRORED_BITS: Final = 0x07

#: The codes that the RFCs give to each layer and error type.
_KNOWN: Final = {
    (0, 0): (0x00,),
    (0, 1): (0x00, 0x01, 0x02, 0x03, 0x04, 0x09, 0xFF),
    (0, 2): (0x05, 0x06, 0x07, 0x08, 0x09, 0xFF),
    (1, 0): (0x00,),
    (1, 1): (0x00, 0x01, 0x02, 0x03, 0x04),
    (1, 2): (0x01, 0x02, 0x03, 0x04, 0x05, 0x06),
    (2, 0): (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07),
}


class Fault(NamedTuple):
    """What a Terminate says (RFC 5040 section 4.8, RFC 5041 section 8.2, RFC 5044 section 8)."""

    layer: int
    etype: int
    code: int


class _Faults:
    """The faults that this RNIC reports; attribute names are those of the RFCs."""

    __slots__ = ()
    LOCAL_CATASTROPHIC = Fault(0, 0, 0x00)
    PROTECTION_INVALID_STAG = Fault(0, 1, 0x00)
    PROTECTION_BOUNDS = Fault(0, 1, 0x01)
    PROTECTION_ACCESS = Fault(0, 1, 0x02)
    PROTECTION_NOT_ASSOCIATED = Fault(0, 1, 0x03)
    PROTECTION_TO_WRAP = Fault(0, 1, 0x04)
    PROTECTION_CANNOT_INVALIDATE = Fault(0, 1, 0x09)
    RDMAP_VERSION = Fault(0, 2, 0x05)
    UNEXPECTED_OPCODE = Fault(0, 2, 0x06)
    CATASTROPHIC_STREAM = Fault(0, 2, 0x07)
    TAGGED_INVALID_STAG = Fault(1, 1, 0x00)
    TAGGED_BOUNDS = Fault(1, 1, 0x01)
    TAGGED_NOT_ASSOCIATED = Fault(1, 1, 0x02)
    TAGGED_TO_WRAP = Fault(1, 1, 0x03)
    TAGGED_VERSION = Fault(1, 1, 0x04)
    INVALID_QN = Fault(1, 2, 0x01)
    NO_BUFFER = Fault(1, 2, 0x02)
    INVALID_MSN = Fault(1, 2, 0x03)
    INVALID_MO = Fault(1, 2, 0x04)
    TOO_LONG = Fault(1, 2, 0x05)
    UNTAGGED_VERSION = Fault(1, 2, 0x06)
    CRC = Fault(2, 0, 0x02)
    BAD_FPDU = Fault(2, 0, 0x03)
    INSUFFICIENT_IRD = Fault(2, 0, 0x06)
    NO_MATCHING_RTR = Fault(2, 0, 0x07)


fault: Final = _Faults


class Terminate(NamedTuple):
    """A Terminate as received: what it most likely means, the other reading if there is one, and the raw ULP bytes."""

    fault: Fault
    alternative: Fault | None
    raw: bytes

    def error(self, peer: str) -> TerminateError:
        """The error that everything on the connection ends with."""
        other = "" if self.alternative is None else f", or {_text(self.alternative)} read the other way"
        return TerminateError(f"{peer} ended the stream; raw bytes {self.raw.hex()}{other}", *self.fault)


def _text(what: Fault) -> str:
    return f"{what.layer}/{what.etype}/{what.code:02x}"


def fpdu_size(ulpdu: int) -> int:
    """Bytes of an FPDU with a ULPDU of ``ulpdu`` bytes: length field, pad to 4 and CRC field included."""
    return (ulpdu + 5 & ~3) + 4


def segment_header(fpdu: bytes) -> bytes:
    """The DDP header, and the RDMAP one of a Read Request, of an FPDU that starts with ``fpdu``; no length field."""
    control = int.from_bytes(fpdu[2:4], "big")
    if control & CTRL_TAGGED:
        return fpdu[2 : 2 + TAGGED_HEADER]
    size = READ_REQUEST_ULPDU if control & CTRL_MASK == OP_READ_REQUEST else UNTAGGED_HEADER
    return fpdu[2 : 2 + size]


def build_terminate(what: Fault, ulpdu: int = 0, header: bytes = b"") -> bytes:
    """The ULP part of a Terminate, with ``header`` (see :func:`segment_header`) and its ``ulpdu`` length if given."""
    bits = 0
    if header:
        bits = _MASK_M | _MASK_D | (_MASK_R if len(header) == READ_REQUEST_ULPDU else 0)
        header = ulpdu.to_bytes(2, "big") + header
    return TERMINATE_CONTROL.pack(what.layer << 4 | what.etype, what.code, bits) + header


def parse_terminate(raw: bytes) -> Terminate:
    """Decode the ULP part of a Terminate; one that is cut short reads as an unspecified local error.

    The kernel's siw sends the nibbles of the first byte exchanged and the three bits at the other end of their byte on
    little-endian hosts.  Where the bits do not tell, both readings are given.
    """
    if len(raw) < TERMINATE_CONTROL.size:
        return Terminate(fault.LOCAL_CATASTROPHIC, None, raw)
    kinds, code, bits = TERMINATE_CONTROL.unpack_from(raw)
    plain = Fault(kinds >> 4, kinds & 0xF, code)
    mirrored = Fault(kinds & 0xF, kinds >> 4, code)
    if plain == mirrored or bits & _RFC_BITS or not _is_known(mirrored):
        return Terminate(plain, None, raw)
    if bits & _MIRRORED_BITS or not _is_known(plain):
        return Terminate(mirrored, None, raw)
    return Terminate(plain, mirrored, raw)


def _is_known(what: Fault) -> bool:
    return what.code in _KNOWN.get((what.layer, what.etype), ())
