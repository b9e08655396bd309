"""The hot BHS of plain iSCSI as ``struct`` forms.

A test proves them equal to the declarations of :mod:`iser.pdu.bhs`.
"""

from __future__ import annotations

import struct
from typing import Final

from crc32c import crc32c

__all__ = [
    "BHS_LENGTH",
    "DATA_IN",
    "DATA_IN_OPCODE",
    "DATA_OUT",
    "DATA_OUT_OPCODE",
    "DIGEST_LENGTH",
    "PADDING",
    "SCSI_RESPONSE",
    "SCSI_RESPONSE_OPCODE",
    "digest",
]

BHS_LENGTH: Final = 48
DIGEST_LENGTH: Final = 4
DATA_IN_OPCODE: Final = 0x25
DATA_OUT_OPCODE: Final = 0x05
SCSI_RESPONSE_OPCODE: Final = 0x21

#: opcode, flags, status, lengths, LUN, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN, DataSN, offset, residual.
DATA_IN: Final = struct.Struct(">BBxBIQIIIIIIII")
#: opcode, flags, lengths, LUN, ITT, TTT, ExpStatSN, DataSN, offset.
DATA_OUT: Final = struct.Struct(">BBxxIQII4xI4xII4x")
#: opcode, flags, response, status, lengths, ITT, SNACK tag, StatSN, ExpCmdSN, MaxCmdSN, ExpDataSN, residuals.
SCSI_RESPONSE: Final = struct.Struct(">BBBBI8xIIIIIIII")
PADDING: Final = (b"", bytes(3), bytes(2), bytes(1))  # by length modulo 4


def digest(*pieces: bytes | bytearray | memoryview) -> bytes:
    """The CRC32C of ``pieces`` as it goes over the wire (RFC 7143 section 13.1)."""
    value = 0
    for piece in pieces:
        value = crc32c(piece, value)
    return value.to_bytes(DIGEST_LENGTH, "little")
