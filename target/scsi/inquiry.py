"""INQUIRY: the standard data and the VPD pages (SPC-4 6.6 and 7.8, SBC-3 6.6)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from iser.scsi.cdb import parse_inquiry
from iser.scsi.codes import INVALID_FIELD_IN_CDB
from iser.scsi.const import VpdPage
from target.scsi.plan import Done, Plan, ScsiTask
from target.scsi.unit import Identity, LogicalUnit

__all__ = ["inquiry", "no_unit_inquiry"]

#: Qualifier 011b, type 1Fh: no logical unit can be here (SPC-4 6.6.2).
NO_UNIT: Final = 0x7F

_STANDARD = struct.Struct(">BBBBBBBB8s16s4s20s2x8H22x")
_VERSION_SPC4 = 0x06
_HISUP_FORMAT_2 = 0x12
_MULTIP = 0x10
_CMDQUE = 0x02
#: SAM-5, SPC-4, SBC-3, iSCSI, and room for four more.
_VERSIONS = (0x00A0, 0x0460, 0x04C0, 0x0960, 0, 0, 0, 0)

_BINARY, _ASCII, _UTF8 = 1, 2, 3  # code sets of a designator
_T10, _NAA, _RELATIVE_PORT, _NAME = 1, 3, 4, 8  # designator types
_OF_PORT = 0x10
_OF_DEVICE = 0x20
_PIV_ISCSI = 0x50  # protocol identifier, in the high half of a designator's first byte
_PIV = 0x80
_PORT_GROUP = 1

_OPTIMAL_BYTES = 128 << 10
_GRANULARITY_BYTES = 4096
_NON_ROTATING = 1


def inquiry(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """INQUIRY of a logical unit."""
    fields = parse_inquiry(task.cdb)
    if fields.evpd:
        build = _VPD.get(fields.page)
        if build is None:
            return lu.check(INVALID_FIELD_IN_CDB, field=2)
        body = build(lu)
        data = struct.pack(">BBH", 0, fields.page, len(body)) + body
    elif fields.page:
        return lu.check(INVALID_FIELD_IN_CDB, field=2)
    else:
        data = _standard(0, lu.identity)
    return Done(data_in=data[: fields.allocation_length])


def no_unit_inquiry(identity: Identity, task: ScsiTask) -> Done:
    """The standard data for a LUN that is not there; ``identity`` is of the target."""
    return Done(data_in=_standard(NO_UNIT, identity)[: parse_inquiry(task.cdb).allocation_length])


def _standard(peripheral: int, identity: Identity) -> bytes:
    texts = (_text(identity.vendor, 8), _text(identity.product, 16), _text(identity.revision, 4))
    more = _STANDARD.size - 5
    head = (peripheral, 0, _VERSION_SPC4, _HISUP_FORMAT_2, more, 0, _MULTIP, _CMDQUE)
    return _STANDARD.pack(*head, *texts, bytes(20), *_VERSIONS)


def _text(words: str, length: int) -> bytes:
    return words.encode("ascii", "replace")[:length].ljust(length)


def _supported_pages(lu: LogicalUnit) -> bytes:
    del lu
    return bytes(sorted(_VPD))


def _serial(lu: LogicalUnit) -> bytes:
    return lu.identity.serial.encode("ascii", "replace")


def _designator(code_set: int, kind: int, value: bytes) -> bytes:
    return bytes((code_set, kind, 0, len(value))) + value


def _identification(lu: LogicalUnit) -> bytes:
    """The unit by NAA and T10 name, then the port and the device it was reached through."""
    identity = lu.identity
    port = f"{identity.port},t,0x{_PORT_GROUP:04x}"
    return b"".join(
        (
            _designator(_BINARY, _NAA, identity.naa.to_bytes(8, "big")),
            _designator(_ASCII, _T10, _text(identity.vendor, 8) + _serial(lu)),
            _designator(_PIV_ISCSI | _BINARY, _PIV | _OF_PORT | _RELATIVE_PORT, struct.pack(">HH", 0, _PORT_GROUP)),
            _designator(_PIV_ISCSI | _UTF8, _PIV | _OF_PORT | _NAME, _name(port)),
            _designator(_PIV_ISCSI | _UTF8, _PIV | _OF_DEVICE | _NAME, _name(identity.port)),
        )
    )


def _name(text: str) -> bytes:
    """A SCSI name string: ends with a zero, and is a multiple of four long (SPC-4 7.8.6.11)."""
    raw = text.encode() + b"\0"
    return raw + bytes(-len(raw) % 4)


def _block_limits(lu: LogicalUnit) -> bytes:
    granularity = max(1, _GRANULARITY_BYTES >> lu.shift)
    optimal = min(lu.max_blocks, _OPTIMAL_BYTES >> lu.shift)
    return struct.pack(">BBHII48x", 0, 0, granularity, lu.max_blocks, optimal)


def _characteristics(lu: LogicalUnit) -> bytes:
    del lu
    return struct.pack(">H58x", _NON_ROTATING)


def _provisioning(lu: LogicalUnit) -> bytes:
    del lu
    return bytes(4)  # fully provisioned, nothing can be unmapped


_VPD: Final[dict[int, Callable[[LogicalUnit], bytes]]] = {
    VpdPage.SUPPORTED_PAGES: _supported_pages,
    VpdPage.UNIT_SERIAL_NUMBER: _serial,
    VpdPage.DEVICE_IDENTIFICATION: _identification,
    VpdPage.BLOCK_LIMITS: _block_limits,
    VpdPage.BLOCK_DEVICE_CHARACTERISTICS: _characteristics,
    VpdPage.LOGICAL_BLOCK_PROVISIONING: _provisioning,
}
