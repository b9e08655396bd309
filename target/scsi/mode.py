"""MODE SENSE and MODE SELECT: caching, control and informational exceptions pages (SPC-4 7.5, SBC-3 6.5)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

from iser.scsi.cdb import parse_mode_sense
from iser.scsi.codes import (
    INVALID_FIELD_IN_CDB,
    INVALID_PARAMETER,
    MODE_CHANGED,
    PARAMETER_LIST_LENGTH_ERROR,
    SAVING_NOT_SUPPORTED,
)
from iser.scsi.const import CAPACITY_10_MAX, Opcode
from target.backends.base import BackendCap
from target.scsi.plan import GOOD, Async, Done, Plan, ScsiTask
from target.scsi.unit import LogicalUnit

__all__ = ["mode_select", "mode_sense"]

_ALL_PAGES = 0x3F
_ALL_SUBPAGES = 0xFF
_CHANGEABLE = 1
_DEFAULT = 2
_SAVED = 3
_WP = 0x80
_DPOFUA = 0x10
_LONG_LBA = 0x01
_PF = 0x10
_SP = 0x01
_SPF = 0x40

_WCE = 0x04
_D_SENSE = 0x04
_SWP = 0x08
_TASKS_UNRESTRICTED = 0x10  # queue algorithm modifier 1: we may reorder simple tasks
_BUSY_FOREVER = 0xFFFF


class _Page(NamedTuple):
    """A mode page: its values now, its defaults, a mask of what can be changed, and how a change is taken over."""

    current: Callable[[LogicalUnit], bytes]
    default: Callable[[LogicalUnit], bytes]
    mask: Callable[[LogicalUnit], bytes]
    change: Callable[[LogicalUnit, bytes], None]


def _caches(lu: LogicalUnit) -> bool:
    return bool(lu.backend.capabilities & BackendCap.WRITE_CACHE)


def _caching(wce: bool) -> bytes:
    return struct.pack(">B17x", _WCE if wce else 0)


def _set_caching(lu: LogicalUnit, body: bytes) -> None:
    lu.write_through = _caches(lu) and not body[0] & _WCE


def _control(d_sense: bool, swp: bool) -> bytes:
    return struct.pack(">BBBxxxHxx", _D_SENSE if d_sense else 0, _TASKS_UNRESTRICTED, _SWP if swp else 0, _BUSY_FOREVER)


def _set_control(lu: LogicalUnit, body: bytes) -> None:
    lu.descriptor_sense = bool(body[0] & _D_SENSE)
    lu.set_protection(bool(body[2] & _SWP))


def _exceptions(lu: LogicalUnit) -> bytes:
    del lu
    return bytes(10)


_PAGES: Final[dict[int, _Page]] = {
    0x08: _Page(
        lambda lu: _caching(_caches(lu) and not lu.write_through),
        lambda lu: _caching(_caches(lu)),
        lambda lu: _caching(_caches(lu)),
        _set_caching,
    ),
    0x0A: _Page(
        lambda lu: _control(lu.descriptor_sense, lu.software_protect),
        lambda lu: _control(lu.options.descriptor_sense, False),
        lambda _: bytes((_D_SENSE, 0, _SWP)) + bytes(7),
        _set_control,
    ),
    0x1C: _Page(_exceptions, _exceptions, _exceptions, lambda _lu, _body: None),
}


def mode_sense(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """MODE SENSE.  No page can be saved."""
    fields = parse_mode_sense(task.cdb)
    if fields.page_control == _SAVED:
        return lu.check(SAVING_NOT_SUPPORTED, field=2)
    if fields.page != _ALL_PAGES and fields.page not in _PAGES:
        return lu.check(INVALID_FIELD_IN_CDB, field=2)
    if fields.subpage not in (0, _ALL_SUBPAGES):  # no page has subpages, so all of them are the page itself
        return lu.check(INVALID_FIELD_IN_CDB, field=3)
    wanted = _PAGES if fields.page == _ALL_PAGES else (fields.page,)
    pages = b"".join(_page(lu, page, fields.page_control) for page in wanted)
    descriptor = b"" if fields.dbd else _block_descriptor(lu, fields.llbaa)
    header = _header(lu, descriptor, pages, ten=task.cdb[0] == Opcode.MODE_SENSE_10, long_lba=fields.llbaa)
    return Done(data_in=(header + descriptor + pages)[: fields.allocation_length])


def _page(lu: LogicalUnit, code: int, control: int) -> bytes:
    page = _PAGES[code]
    build = {_CHANGEABLE: page.mask, _DEFAULT: page.default}.get(control, page.current)
    body = build(lu)
    return bytes((code, len(body))) + body


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


def mode_select(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """MODE SELECT(6) and (10): what MODE SENSE shows as changeable can be changed; all of it is, or nothing."""
    ten = task.cdb[0] == Opcode.MODE_SELECT_10
    length = int.from_bytes(task.cdb[7:9], "big") if ten else task.cdb[4]
    if task.cdb[1] & _SP or not task.cdb[1] & _PF:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    if not length:
        return GOOD
    return Async(partial(_mode_select, lu, task, length, ten=ten), length)


async def _mode_select(lu: LogicalUnit, task: ScsiTask, length: int, *, ten: bool) -> Done:
    data = bytes(task.data_out)
    start = 8 if ten else 4
    if len(data) < length or length < start:
        return lu.check(PARAMETER_LIST_LENGTH_ERROR)
    described = int.from_bytes(data[6:8], "big") if ten else data[3]
    pages = start + described
    if pages > length:
        return lu.check(PARAMETER_LIST_LENGTH_ERROR, parameter=6 if ten else 3)
    long_lba = ten and bool(data[4] & _LONG_LBA)
    if not _descriptor_fits(lu, data[start:pages], long_lba):
        return lu.check(INVALID_PARAMETER, parameter=start)
    changes: list[tuple[_Page, bytes]] = []
    for place, code, body in _split_pages(data, pages, length):
        fault = _page_fault(lu, code, body)
        if fault is not None:
            return lu.check(INVALID_PARAMETER if fault >= 0 else PARAMETER_LIST_LENGTH_ERROR, parameter=place)
        changes.append((_PAGES[code], body))
    for page, body in changes:
        page.change(lu, body)
    if changes:
        lu.attention(MODE_CHANGED, but=task.nexus)
    return GOOD


def _descriptor_fits(lu: LogicalUnit, descriptor: bytes, long_lba: bool) -> bool:
    """Whether a block descriptor, if there is one, says what is so already, or 0 for it."""
    if not descriptor:
        return True
    if len(descriptor) != (16 if long_lba else 8):
        return False
    blocks, size = struct.unpack(">Q4xI" if long_lba else ">II", descriptor)
    own, own_size = struct.unpack(">Q4xI" if long_lba else ">II", _block_descriptor(lu, long_lba))
    return blocks in (0, own) and size & 0xFFFFFF in (0, own_size)


def _split_pages(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """(place, page code, body) of each page; a body that the list cuts off is short."""
    while start < end:
        code = data[start] & 0x7F
        length = data[start + 1] if start + 1 < end else 0
        yield start, code, data[start + 2 : min(start + 2 + length, end)]
        start += 2 + length


def _page_fault(lu: LogicalUnit, code: int, body: bytes) -> int | None:
    """None for a page that can be taken over; negative for one that was cut off."""
    page = _PAGES.get(code)
    if page is None:
        return 0
    own, mask = page.current(lu), page.mask(lu)
    if len(body) != len(own):
        return -1 if len(body) < len(own) else 0
    differs = any((new ^ old) & ~free for new, old, free in zip(body, own, mask, strict=True))
    return 1 if differs else None
