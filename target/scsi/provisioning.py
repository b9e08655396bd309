"""Logical block provisioning: UNMAP and GET LBA STATUS (SBC-3 5.28 and 5.4)."""

from __future__ import annotations

import struct
from functools import partial
from itertools import islice
from typing import Final

from iser.errors import BackendError
from iser.scsi.codes import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    INVALID_PARAMETER,
    LBA_OUT_OF_RANGE,
    PARAMETER_LIST_LENGTH_ERROR,
)
from target.scsi.plan import GOOD, Async, Done, Plan, ScsiTask
from target.scsi.unit import LogicalUnit

__all__ = ["MAX_UNMAP_BLOCKS", "MAX_UNMAP_DESCRIPTORS", "get_lba_status", "unmap"]

#: Most blocks, and most block descriptors, of one UNMAP; reported in the Block Limits page.
MAX_UNMAP_BLOCKS: Final = 1 << 20
MAX_UNMAP_DESCRIPTORS: Final = 256
#: Most LBA status descriptors of one answer.
MAX_STATUS_DESCRIPTORS: Final = 256

_ANCHOR = 0x01
_HEADER = 8
_DESCRIPTOR = struct.Struct(">QI4x")
_STATUS = struct.Struct(">QIB3x")
_MAPPED, _DEALLOCATED = 0, 1


def unmap(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """UNMAP: what it names reads as zeros from then on."""
    if not lu.thin:
        return lu.check(INVALID_OPCODE, field=0)
    if lu.protection is not None:
        return lu.check(lu.protection)
    if task.cdb[1] & _ANCHOR:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    length = int.from_bytes(task.cdb[7:9], "big")
    if not length:
        return GOOD
    return Async(partial(_unmap, lu, task, length), length)


async def _unmap(lu: LogicalUnit, task: ScsiTask, length: int) -> Done:
    data = bytes(task.data_out)
    if len(data) < length or length < _HEADER:
        return lu.check(PARAMETER_LIST_LENGTH_ERROR)
    listed = int.from_bytes(data[2:4], "big") // _DESCRIPTOR.size * _DESCRIPTOR.size
    if listed > length - _HEADER:
        return lu.check(PARAMETER_LIST_LENGTH_ERROR, parameter=2)
    ranges = list(_DESCRIPTOR.iter_unpack(data[_HEADER : _HEADER + listed]))
    refused = _check_ranges(lu, ranges)
    if refused:
        return refused
    try:
        for lba, blocks in ranges:
            if blocks:
                await lu.backend.discard(lba << lu.shift, blocks << lu.shift)
    except BackendError as error:
        return lu.complete_error(error, write=True)
    return GOOD


def _check_ranges(lu: LogicalUnit, ranges: list[tuple[int, int]]) -> Done | None:
    """Nothing is unmapped unless all of it may be."""
    if len(ranges) > MAX_UNMAP_DESCRIPTORS or sum(blocks for _, blocks in ranges) > MAX_UNMAP_BLOCKS:
        return lu.check(INVALID_PARAMETER, parameter=2)
    for lba, blocks in ranges:
        if lba + blocks > lu.blocks:
            return lu.check(LBA_OUT_OF_RANGE, information=max(lba, lu.blocks))
    return None


def get_lba_status(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """GET LBA STATUS: which blocks are mapped, as the backend knows it; on a unit that is not thin, all are."""
    lba = int.from_bytes(task.cdb[2:10], "big")
    allocation = int.from_bytes(task.cdb[10:14], "big")
    if lba >= lu.blocks:
        return lu.check(LBA_OUT_OF_RANGE, information=lba)
    wanted = min(max((allocation - _HEADER) // _STATUS.size, 1), MAX_STATUS_DESCRIPTORS)
    return Async(partial(_lba_status, lu, lba, wanted, allocation))


async def _lba_status(lu: LogicalUnit, lba: int, wanted: int, allocation: int) -> Done:
    blocks = min(lu.blocks - lba, 0xFFFFFFFF)
    found: list[tuple[int, bool]] = [(blocks, True)]
    if lu.thin:
        try:
            extents = await lu.backend.extents(lba << lu.shift, blocks << lu.shift, wanted)
        except BackendError as error:
            return lu.complete_error(error, write=False)
        found = [(length >> lu.shift, mapped) for length, mapped in extents]
    descriptors = []
    for count, mapped in islice(found, wanted):
        descriptors.append(_STATUS.pack(lba, count, _MAPPED if mapped else _DEALLOCATED))
        lba += count
    body = b"".join(descriptors)
    return Done(data_in=(struct.pack(">I4x", len(body) + 4) + body)[:allocation])
