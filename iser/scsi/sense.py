"""Sense data, both formats (SPC-4 4.5): built for a target, decoded for an initiator.

The sense bytes here carry no length prefix; the two length bytes that iSCSI puts before them belong to the PDU.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from iser.errors import PduError, ScsiError
from iser.scsi.codes import SenseCode, asc_name
from iser.scsi.const import SenseKey, Status

__all__ = ["MAX_SENSE", "Sense", "build_sense", "decode_sense", "scsi_error"]

#: The most sense bytes there can be (SPC-4 4.5.1).
MAX_SENSE: Final = 252

_FIXED = struct.Struct(">BxBIB4xBBxBH")  # ends with the sense-key specific field: SKSV, C/D and the pointer
_DESCRIPTOR_HEADER = struct.Struct(">BBBB3xB")
_INFORMATION = struct.Struct(">BBBxQ")
_SKS_DESCRIPTOR = struct.Struct(">BB2xBHx")
_INFORMATION_END = 7
_VALID = 0x80
_SKSV = 0x80
_SKSV_IN_CDB = 0xC0
_TYPE_INFORMATION = 0x00
_TYPE_SKS = 0x02
_STATUSES = frozenset(Status)
_KEYS = frozenset(SenseKey)


class Sense(NamedTuple):
    """Decoded sense data.

    ``information`` is the information field where it is valid (for a block device usually an LBA), ``field`` the CDB
    byte that an ILLEGAL REQUEST points at; both None where the peer did not say.  ``deferred`` means the error belongs
    to an earlier command.
    """

    key: int
    asc: int
    ascq: int
    information: int | None = None
    field: int | None = None
    deferred: bool = False

    @property
    def text(self) -> str:
        """The sense in one phrase, e.g. ``MEDIUM ERROR, unrecovered read error (3/11/00)``."""
        key = SenseKey(self.key).name.replace("_", " ") if self.key in _KEYS else "reserved sense key"
        words = f"{key}, {asc_name(self.asc, self.ascq)} ({self.key:x}/{self.asc:02x}/{self.ascq:02x})"
        if self.information is not None:
            words += f", information {self.information}"
        if self.field is not None:
            words += f", CDB byte {self.field}"
        return words + (", deferred from an earlier command" if self.deferred else "")


def build_sense(
    code: SenseCode,
    *,
    information: int | None = None,
    field: int | None = None,
    parameter: int | None = None,
    progress: int | None = None,
    descriptor: bool = False,
) -> bytes:
    """Current-error sense data for ``code``: 18 bytes fixed, or 8 to 28 bytes in descriptor format.

    At most one of: ``field``, the byte of the CDB at fault; ``parameter``, the one of the parameter list; ``progress``,
    how far an operation has come, of 65536.  ``information`` above 32 bits does not fit the fixed format and is left
    out there, as SPC-4 4.5.3 demands.
    """
    specific = _specific(field, parameter if progress is None else min(progress, 0xFFFF))
    if descriptor:
        return _build_descriptor(code, information, specific)
    if information is None or information > 0xFFFFFFFF:
        response, information = 0x70, 0
    else:
        response = 0x70 | _VALID
    return _FIXED.pack(response, code.key, information, 10, code.asc, code.ascq, *(specific or (0, 0)))


def _specific(field: int | None, value: int | None) -> tuple[int, int] | None:
    """The sense-key specific flags and value."""
    if field is not None:
        return _SKSV_IN_CDB, field
    return None if value is None else (_SKSV, value)


def _build_descriptor(code: SenseCode, information: int | None, specific: tuple[int, int] | None) -> bytes:
    tail = b""
    if information is not None:
        tail += _INFORMATION.pack(_TYPE_INFORMATION, 10, _VALID, information)
    if specific is not None:
        tail += _SKS_DESCRIPTOR.pack(_TYPE_SKS, 6, *specific)
    return _DESCRIPTOR_HEADER.pack(0x72, code.key, code.asc, code.ascq, len(tail)) + tail


def decode_sense(sense: bytes | memoryview) -> Sense:
    """Decode fixed or descriptor sense data; codes that a peer cut off are 0, fields that it cut into are None.

    Raises PduError when there is no sense, or its format is neither of the two.
    """
    data = bytes(sense[:MAX_SENSE])
    response = data[0] & 0x7F if data else 0
    if response in (0x70, 0x71):
        return _decode_fixed(data, response == 0x71)
    if response in (0x72, 0x73):
        return _decode_descriptor(data, response == 0x73)
    raise PduError(f"sense data of {len(data)} bytes has response code {response:#04x}, not 0x70 to 0x73")


def _decode_fixed(data: bytes, deferred: bool) -> Sense:
    if len(data) > 7:
        data = data[: 8 + data[7]]  # what stands past the additional length is not sense
    first, key, information, _, asc, ascq, sks, pointer = _FIXED.unpack(data[: _FIXED.size].ljust(_FIXED.size, b"\0"))
    return Sense(
        key & 0x0F,
        asc,
        ascq,
        information if first & _VALID and len(data) >= _INFORMATION_END else None,
        _cdb_pointer(key & 0x0F, sks, pointer) if len(data) >= _FIXED.size else None,
        deferred,
    )


def _decode_descriptor(data: bytes, deferred: bool) -> Sense:
    _, key, asc, ascq, length = _DESCRIPTOR_HEADER.unpack(data[:8].ljust(8, b"\0"))
    sense = Sense(key & 0x0F, asc, ascq, deferred=deferred)
    rest = data[8 : 8 + length]
    while len(rest) >= 2:
        descriptor, rest = rest[: 2 + rest[1]], rest[2 + rest[1] :]
        if descriptor[0] == _TYPE_INFORMATION and len(descriptor) >= _INFORMATION.size:
            _, _, flags, information = _INFORMATION.unpack_from(descriptor)
            sense = sense._replace(information=information if flags & _VALID else None)
        elif descriptor[0] == _TYPE_SKS and len(descriptor) >= _SKS_DESCRIPTOR.size:
            _, _, sks, pointer = _SKS_DESCRIPTOR.unpack_from(descriptor)
            sense = sense._replace(field=_cdb_pointer(sense.key, sks, pointer))
    return sense


def _cdb_pointer(key: int, sks: int, pointer: int) -> int | None:
    in_cdb = sks & _SKSV_IN_CDB == _SKSV_IN_CDB
    return pointer if in_cdb and key == SenseKey.ILLEGAL_REQUEST else None


def scsi_error(status: int, sense: bytes | memoryview = b"", what: str = "the command") -> ScsiError:
    """The exception for a command that ended in ``status`` with ``sense``; ``what`` names it in the message.

    Never raises: sense that cannot be decoded is named as such in the message and left raw in the exception.
    """
    name = Status(status).name.replace("_", " ") if status in _STATUSES else f"status {status:#04x}"
    raw = bytes(sense)
    if not raw:
        return ScsiError(f"{what} ended in {name}", status)
    try:
        decoded = decode_sense(raw)
    except PduError as error:
        return ScsiError(f"{what} ended in {name}; {error}", status, raw)
    return ScsiError(f"{what} ended in {name}: {decoded.text}", status, raw, decoded.key, decoded.asc, decoded.ascq)
