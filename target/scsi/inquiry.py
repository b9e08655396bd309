"""INQUIRY: the standard data and the VPD pages (SPC-4 6.6 and 7.8, SBC-3 6.6)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from iser.scsi.cdb import parse_inquiry
from iser.scsi.codes import INVALID_FIELD_IN_CDB
from iser.scsi.const import VpdPage
from target.backends.base import BackendCap
from target.scsi.modify import MAX_COMPARE, MAX_WRITE_SAME
from target.scsi.plan import Done, Plan, ScsiTask
from target.scsi.provisioning import MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS
from target.scsi.unit import Identity, LogicalUnit

__all__ = ["PORT_GROUP", "inquiry", "no_unit_inquiry"]

#: The target port group of every port: they are all alike, so there is one.
PORT_GROUP: Final = 1

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
_T10, _NAA, _RELATIVE_PORT, _PORT_GROUP, _NAME = 1, 3, 4, 5, 8  # designator types
_OF_PORT = 0x10
_OF_DEVICE = 0x20
_PIV_ISCSI = 0x50  # protocol identifier, in the high half of a designator's first byte
_PIV = 0x80

_OPTIMAL_BYTES = 128 << 10
_GRANULARITY_BYTES = 4096
_NON_ROTATING = 1
_WABEREQ_COMPLETES = 0x40  # after BLOCK ERASE, reads go on without an error
_LBPU, _LBPWS, _LBPWS10, _LBPRZ = 0x80, 0x40, 0x20, 0x04
_THIN = 0x02
_RMB = 0x80
_TPGS_IMPLICIT = 0x10
_3PC = 0x08
_WSNZ = 0x01
_UGAVALID = 1 << 31
_HEADSUP, _ORDSUP, _SIMPSUP = 0x04, 0x02, 0x01
_V_SUP = 0x01
_LUICLR = 0x01


def inquiry(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """INQUIRY of a logical unit."""
    fields = parse_inquiry(task.cdb)
    if fields.evpd:
        build = _VPD.get(fields.page)
        if build is None:
            return lu.check(INVALID_FIELD_IN_CDB, field=2)
        body = build(lu, task.nexus.port)
        data = struct.pack(">BBH", 0, fields.page, len(body)) + body
    elif fields.page:
        return lu.check(INVALID_FIELD_IN_CDB, field=2)
    else:
        data = _standard(0, lu.identity, removable=lu.options.removable, ports=len(lu.ports))
    return Done(data_in=data[: fields.allocation_length])


def no_unit_inquiry(identity: Identity, task: ScsiTask) -> Done:
    """The standard data for a LUN that is not there; ``identity`` is of the target."""
    return Done(data_in=_standard(NO_UNIT, identity)[: parse_inquiry(task.cdb).allocation_length])


def _standard(peripheral: int, identity: Identity, *, removable: bool = False, ports: int = 1) -> bytes:
    texts = (_text(identity.vendor, 8), _text(identity.product, 16), _text(identity.revision, 4))
    more = _STANDARD.size - 5
    medium = _RMB if removable else 0
    multiple = _MULTIP if ports > 1 else 0
    head = (peripheral, medium, _VERSION_SPC4, _HISUP_FORMAT_2, more, _TPGS_IMPLICIT | _3PC, multiple, _CMDQUE)
    return _STANDARD.pack(*head, *texts, bytes(20), *_VERSIONS)


def _text(words: str, length: int) -> bytes:
    return words.encode("ascii", "replace")[:length].ljust(length)


def _supported_pages(_lu: LogicalUnit, _port: int) -> bytes:
    return bytes(sorted(_VPD))


def _serial(lu: LogicalUnit, _port: int) -> bytes:
    return lu.identity.serial.encode("ascii", "replace")


def _designator(code_set: int, kind: int, value: bytes) -> bytes:
    return bytes((code_set, kind, 0, len(value))) + value


def _identification(lu: LogicalUnit, port: int) -> bytes:
    """The unit by NAA and T10 name, then the port and the device it was reached through."""
    identity = lu.identity
    return b"".join(
        (
            _designator(_BINARY, _NAA, identity.naa.to_bytes(8, "big")),
            _designator(_ASCII, _T10, _text(identity.vendor, 8) + _serial(lu, port)),
            _designator(_PIV_ISCSI | _BINARY, _PIV | _OF_PORT | _RELATIVE_PORT, struct.pack(">HH", 0, port)),
            _designator(_PIV_ISCSI | _BINARY, _PIV | _OF_PORT | _PORT_GROUP, struct.pack(">HH", 0, PORT_GROUP)),
            _port_name(lu, port),
            _designator(_PIV_ISCSI | _UTF8, _PIV | _OF_DEVICE | _NAME, _name(identity.port)),
        )
    )


def _port_name(lu: LogicalUnit, port: int) -> bytes:
    return _designator(_PIV_ISCSI | _UTF8, _PIV | _OF_PORT | _NAME, _name(f"{lu.identity.port},t,0x{port:04x}"))


def _ports(lu: LogicalUnit, _port: int) -> bytes:
    """Each target port with its name; none is an initiator too (SPC-4 7.8.14)."""
    names = [(port, _port_name(lu, port)) for port in lu.ports]
    return b"".join(struct.pack(">2xH2xH2xH", port, 0, len(name)) + name for port, name in names)


def _name(text: str) -> bytes:
    """A SCSI name string: ends with a zero, and is a multiple of four long (SPC-4 7.8.6.11)."""
    raw = text.encode() + b"\0"
    return raw + bytes(-len(raw) % 4)


def _extended(lu: LogicalUnit, _port: int) -> bytes:
    """All task attributes but ACA; a volatile cache where the backend has one; no protection information."""
    volatile = _V_SUP if lu.backend.capabilities & BackendCap.WRITE_CACHE else 0
    return struct.pack(">xBBB56x", _HEADSUP | _ORDSUP | _SIMPSUP, volatile, _LUICLR)


def _block_limits(lu: LogicalUnit, _port: int) -> bytes:
    physical = 1 << lu.physical_exponent
    granularity = max(physical, _GRANULARITY_BYTES >> lu.shift)
    optimal = min(lu.max_blocks, _OPTIMAL_BYTES >> lu.shift)
    transfers = struct.pack(">HIII", granularity, lu.max_blocks, optimal, 0)
    unmap = (MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, granularity, _UGAVALID) if lu.thin else (0, 0, 0, 0)
    atomic = (0, 0, 0)
    if lu.backend.capabilities & BackendCap.ATOMIC:
        atomic = (lu.max_atomic_blocks, physical, physical)
    head = bytes((_WSNZ if lu.thin else 0, MAX_COMPARE))
    return head + transfers + struct.pack(">IIIIQ3I8x", *unmap, MAX_WRITE_SAME, *atomic)


def _characteristics(lu: LogicalUnit, _port: int) -> bytes:
    return struct.pack(">HxB56x", _NON_ROTATING, _WABEREQ_COMPLETES if lu.thin else 0)


def _provisioning(lu: LogicalUnit, _port: int) -> bytes:
    """Thin: unmapped blocks read as zeros, and none are anchored.  Or fully provisioned."""
    return bytes((0, _LBPU | _LBPWS | _LBPWS10 | _LBPRZ, _THIN, 0)) if lu.thin else bytes(4)


#: What builds each page, for who asks by a target port.
_VPD: Final[dict[int, Callable[[LogicalUnit, int], bytes]]] = {
    VpdPage.SUPPORTED_PAGES: _supported_pages,
    VpdPage.UNIT_SERIAL_NUMBER: _serial,
    VpdPage.DEVICE_IDENTIFICATION: _identification,
    VpdPage.EXTENDED_INQUIRY_DATA: _extended,
    VpdPage.SCSI_PORTS: _ports,
    VpdPage.BLOCK_LIMITS: _block_limits,
    VpdPage.BLOCK_DEVICE_CHARACTERISTICS: _characteristics,
    VpdPage.LOGICAL_BLOCK_PROVISIONING: _provisioning,
}
