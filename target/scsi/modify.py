"""Writes that are more than a write: WRITE AND VERIFY, WRITE ATOMIC, WRITE SAME, COMPARE AND WRITE, ORWRITE (SBC-3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

from iser.errors import BackendError
from iser.scsi.cdb import BYTCHK_DATA, FLAG_FUA, TRANSFER_PARSERS, Transfer
from iser.scsi.codes import (
    INVALID_FIELD_IN_CDB,
    INVALID_INFORMATION_UNIT,
    INVALID_OPCODE,
    LBA_OUT_OF_RANGE,
    MISCOMPARE,
)
from iser.scsi.const import Opcode
from target.backends.base import BackendCap
from target.scsi.media import first_difference, refuse, transfer_length_field
from target.scsi.plan import GOOD, Async, Done, Plan, ScsiTask
from target.scsi.unit import LogicalUnit

__all__ = [
    "MAX_COMPARE",
    "MAX_WRITE_SAME",
    "compare_and_write",
    "fill",
    "orwrite",
    "write_and_verify",
    "write_atomic",
    "write_same",
]

#: Most blocks of one COMPARE AND WRITE: its field and that of the Block Limits page have one byte.
MAX_COMPARE: Final = 255
#: Most blocks of one WRITE SAME, which bounds the work that one command can ask for.
MAX_WRITE_SAME: Final = 0xFFFF
#: Bytes that are written at a time.
CHUNK: Final = 1 << 20

_BYTCHK_MASK = 0x06
_ANCHOR = 0x10
_UNMAP = 0x08
_NDOB = 0x01


def _fields(task: ScsiTask) -> Transfer:
    return Transfer(*TRANSFER_PARSERS[task.cdb[0]](task.cdb))


def _fua(lu: LogicalUnit, fields: Transfer) -> bool:
    return bool(fields.flags & FLAG_FUA) or lu.write_through


def write_and_verify(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """WRITE AND VERIFY: onto the medium, and read back from there; compared if BYTCHK says so (SBC-3 5.34)."""
    fields = _fields(task)
    bytchk = fields.flags & _BYTCHK_MASK
    if bytchk not in (0, BYTCHK_DATA):
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    refused = refuse(lu, task, fields, write=True)
    if refused or not fields.blocks:
        return refused or GOOD
    run = partial(_write_and_verify, lu, task, fields.lba << lu.shift, compare=bool(bytchk))
    return Async(run, fields.blocks << lu.shift)


async def _write_and_verify(lu: LogicalUnit, task: ScsiTask, offset: int, *, compare: bool) -> Done:
    """All whole blocks that were sent, as a WRITE takes them when fewer come than it asks for."""
    data = memoryview(task.data_out).cast("B")
    data = data[: len(data) - len(data) % lu.block_size]
    back = memoryview(bytearray(min(len(data), CHUNK)))
    write = True
    try:
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            write = True
            await lu.backend.writev(offset + start, [piece], True)
            write = False
            await lu.backend.readv(offset + start, [back[: len(piece)]])
            if compare and back[: len(piece)] != piece:
                differs = first_difference(back[: len(piece)], piece)
                return lu.check(MISCOMPARE, information=start + (differs or 0))
            await asyncio.sleep(0)
    except BackendError as error:
        return lu.complete_error(error, write=write)
    return GOOD


def write_atomic(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """WRITE ATOMIC(16): all of the blocks or none, whatever happens (SBC-4 5.49), where the backend can do that."""
    if not lu.backend.capabilities & BackendCap.ATOMIC:
        return lu.check(INVALID_OPCODE, field=0)
    fields = _fields(task)
    refused = refuse(lu, task, fields, write=True, most=lu.max_atomic_blocks)
    if refused or not fields.blocks:
        return refused or GOOD
    if any(task.cdb[10:12]):
        return lu.check(INVALID_FIELD_IN_CDB, field=10)  # no atomic boundaries
    unit = 1 << lu.physical_exponent
    if fields.lba % unit or fields.blocks % unit:
        return lu.check(INVALID_FIELD_IN_CDB, field=2 if fields.lba % unit else 12)
    return _whole(lu, task, fields.blocks << lu.shift, partial(_write_atomic, lu, task, fields))


async def _write_atomic(lu: LogicalUnit, task: ScsiTask, fields: Transfer) -> Done:
    def replace(data: bytearray) -> bool:
        data[:] = task.data_out
        return True

    return await _update(lu, fields, replace)


def _whole(lu: LogicalUnit, task: ScsiTask, length: int, run: Callable[[], Awaitable[Done]]) -> Plan:
    """A command that needs all of its data, and no more, before it can do anything."""
    return Async(run, length) if task.edtl == length else lu.check(INVALID_INFORMATION_UNIT)


async def _update(lu: LogicalUnit, fields: Transfer, change: Callable[[bytearray], bool]) -> Done:
    length = fields.blocks << lu.shift
    try:
        await lu.backend.update(fields.lba << lu.shift, length, change, _fua(lu, fields))
    except BackendError as error:
        return lu.complete_error(error, write=True)
    return GOOD


def orwrite(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """ORWRITE(16): the bits that are sent are set (SBC-3 5.6)."""
    fields = _fields(task)
    refused = refuse(lu, task, fields, write=True)
    if refused or not fields.blocks:
        return refused or GOOD
    return _whole(lu, task, fields.blocks << lu.shift, partial(_orwrite, lu, task, fields))


async def _orwrite(lu: LogicalUnit, task: ScsiTask, fields: Transfer) -> Done:
    def merge(data: bytearray) -> bool:
        both = int.from_bytes(data, "little") | int.from_bytes(task.data_out, "little")
        data[:] = both.to_bytes(len(data), "little")
        return True

    return await _update(lu, fields, merge)


def compare_and_write(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """COMPARE AND WRITE: the second half of the data replaces blocks that are equal to the first half (SBC-3 5.2)."""
    fields = _fields(task)
    refused = refuse(lu, task, fields, write=True)
    if not refused and not fields.blocks and task.edtl:
        refused = lu.check(INVALID_FIELD_IN_CDB, field=13)  # 256 blocks do not fit their one byte
    if refused or not fields.blocks:
        return refused or GOOD
    return _whole(lu, task, 2 * fields.blocks << lu.shift, partial(_compare_and_write, lu, task, fields))


async def _compare_and_write(lu: LogicalUnit, task: ScsiTask, fields: Transfer) -> Done:
    half = fields.blocks << lu.shift
    sent = memoryview(task.data_out).cast("B")
    differs: int | None = None

    def swap(data: bytearray) -> bool:
        nonlocal differs
        if data != sent[:half]:
            differs = first_difference(data, sent[:half])
            return False
        data[:] = sent[half:]
        return True

    done = await _update(lu, fields, swap)
    return done if differs is None else lu.check(MISCOMPARE, information=differs)


def write_same(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """WRITE SAME(10) and (16): one block over and over, or, with UNMAP, no block at all (SBC-3 5.46, 5.47).

    A thin unit refuses a length of 0, which elsewhere means all up to the end: unmapping that is too easy a slip.
    """
    fields = _fields(task)
    if fields.lba >= lu.blocks:
        return lu.check(LBA_OUT_OF_RANGE, information=fields.lba)
    blocks = fields.blocks or (lu.blocks - fields.lba if not lu.thin else 0)
    fields = fields._replace(blocks=blocks)
    refused = refuse(lu, task, fields, write=True, most=MAX_WRITE_SAME)
    if refused or not blocks:
        return refused or lu.check(INVALID_FIELD_IN_CDB, field=transfer_length_field(task))
    unmap = fields.flags & _UNMAP
    if fields.flags & _ANCHOR or (unmap and not lu.thin):
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    if task.cdb[0] == Opcode.WRITE_SAME_16 and fields.flags & _NDOB:
        return Async(partial(_write_same, lu, task, fields, bytes(lu.block_size), unmap=bool(unmap)))
    return _whole(lu, task, lu.block_size, partial(_write_sent, lu, task, fields, unmap=bool(unmap)))


async def _write_sent(lu: LogicalUnit, task: ScsiTask, fields: Transfer, *, unmap: bool) -> Done:
    return await _write_same(lu, task, fields, bytes(task.data_out), unmap=unmap)


async def _write_same(lu: LogicalUnit, task: ScsiTask, fields: Transfer, block: bytes, *, unmap: bool) -> Done:
    """Unmapped blocks read as zeros, so no others may be unmapped (SBC-3 4.7.3.4.4).  An abort ends it on the way."""
    offset, length = fields.lba << lu.shift, fields.blocks << lu.shift
    try:
        if unmap and not any(block):
            await lu.backend.discard(offset, length)
        else:
            async for _ in fill(lu, offset, length, block):
                if task.aborted:
                    break
            if _fua(lu, Transfer(0, 0, 0)):
                await lu.backend.flush()
    except BackendError as error:
        return lu.complete_error(error, write=True)
    return GOOD


async def fill(lu: LogicalUnit, offset: int, length: int, block: bytes) -> AsyncIterator[int]:
    """Write ``block`` all over ``length`` bytes; yields how many of them are written, as it goes on.

    Raises BackendError.
    """
    chunk = memoryview(block * (min(length, CHUNK) // len(block)))
    for start in range(0, length, len(chunk)):
        piece = chunk[: length - start]
        await lu.backend.writev(offset + start, [piece], False)
        await asyncio.sleep(0)
        yield start + len(piece)
