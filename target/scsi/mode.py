"""MODE SENSE(6) and (10): caching, control and informational exceptions pages (SPC-4 7.5, SBC-3 6.5)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from iser.scsi.cdb import parse_mode_sense
from iser.scsi.codes import INVALID_FIELD_IN_CDB, SAVING_NOT_SUPPORTED
from iser.scsi.const import CAPACITY_10_MAX, Opcode
from target.backends.base import BackendCap
from target.scsi.plan import Done, Plan, ScsiTask
from target.scsi.unit import LogicalUnit

__all__ = ["mode_sense"]

_ALL_PAGES = 0x3F
_ALL_SUBPAGES = 0xFF
_CHANGEABLE = 1
_SAVED = 3
_WP = 0x80
_DPOFUA = 0x10
_LONG_LBA = 0x01

_WCE = 0x04
_D_SENSE = 0x04
_TASKS_UNRESTRICTED = 0x10  # queue algorithm modifier 1: we may reorder simple tasks
_BUSY_FOREVER = 0xFFFF


def _caching(lu: LogicalUnit) -> bytes:
    wce = _WCE if lu.backend.capabilities & BackendCap.WRITE_CACHE else 0
    return struct.pack(">B17x", wce)


def _control(lu: LogicalUnit) -> bytes:
    return struct.pack(">BB4xHxx", _D_SENSE if lu.descriptor_sense else 0, _TASKS_UNRESTRICTED, _BUSY_FOREVER)


def _exceptions(lu: LogicalUnit) -> bytes:
    del lu
    return bytes(10)


_PAGES: Final[dict[int, Callable[[LogicalUnit], bytes]]] = {0x08: _caching, 0x0A: _control, 0x1C: _exceptions}


def mode_sense(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """MODE SENSE.  No page can be changed or saved; the defaults are the current values."""
    fields = parse_mode_sense(task.cdb)
    if fields.page_control == _SAVED:
        return lu.check(SAVING_NOT_SUPPORTED, field=2)
    if fields.page != _ALL_PAGES and fields.page not in _PAGES:
        return lu.check(INVALID_FIELD_IN_CDB, field=2)
    if fields.subpage not in (0, _ALL_SUBPAGES):  # no page has subpages, so all of them are the page itself
        return lu.check(INVALID_FIELD_IN_CDB, field=3)
    wanted = _PAGES if fields.page == _ALL_PAGES else (fields.page,)
    pages = b"".join(_page(lu, page, changeable=fields.page_control == _CHANGEABLE) for page in wanted)
    descriptor = b"" if fields.dbd else _block_descriptor(lu, fields.llbaa)
    header = _header(lu, descriptor, pages, ten=task.cdb[0] == Opcode.MODE_SENSE_10, long_lba=fields.llbaa)
    return Done(data_in=(header + descriptor + pages)[: fields.allocation_length])


def _page(lu: LogicalUnit, page: int, *, changeable: bool) -> bytes:
    body = _PAGES[page](lu)
    return bytes((page, len(body))) + (bytes(len(body)) if changeable else body)


def _header(lu: LogicalUnit, descriptor: bytes, pages: bytes, *, ten: bool, long_lba: bool) -> bytes:
    specific = _DPOFUA | (_WP if lu.read_only else 0)
    payload = len(descriptor) + len(pages)
    if ten:
        return struct.pack(">HBBBxH", payload + 6, 0, specific, _LONG_LBA if long_lba else 0, len(descriptor))
    return struct.pack(">BBBB", payload + 3, 0, specific, len(descriptor))


def _block_descriptor(lu: LogicalUnit, long_lba: bool) -> bytes:
    if long_lba:
        return struct.pack(">Q4xI", lu.blocks, lu.block_size)
    return struct.pack(">II", min(lu.blocks, CAPACITY_10_MAX), lu.block_size)
