"""READ, WRITE, VERIFY, PRE-FETCH and SYNCHRONIZE CACHE (SBC-3): what touches the blocks.

The reads and writes run once per I/O, so their checks are one condition; which of them failed is found out after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from iser.errors import BackendError
from iser.scsi.cdb import (
    BYTCHK_BLOCK,
    BYTCHK_DATA,
    FLAG_FUA,
    NACA,
    PROTECT_MASK,
    READ_WRITE_LAYOUTS,
    TRANSFER_PARSERS,
    Transfer,
)
from iser.scsi.codes import INVALID_FIELD_IN_CDB, LBA_OUT_OF_RANGE, MISCOMPARE
from iser.scsi.const import Opcode
from target.backends.base import BackendCap
from target.scsi.plan import GOOD, Async, Done, Plan, ReadMedia, ScsiTask, WriteMedia
from target.scsi.unit import LogicalUnit

__all__ = [
    "CONTROL_BYTE",
    "VERIFY_CHUNK",
    "Handler",
    "first_difference",
    "flush_plan",
    "pre_fetch",
    "reader",
    "refuse",
    "refuse_aca",
    "synchronize_cache",
    "transfer_length_field",
    "verify",
    "writer",
]

#: Bytes that VERIFY reads at a time.
VERIFY_CHUNK: Final = 256 << 10

Handler = Callable[[LogicalUnit, ScsiTask], Plan]

#: Where the control byte of a CDB is, by its operation code: at its end.
CONTROL_BYTE: Final = bytes((5, 9, 9, 15, 15, 11, 5, 5)[opcode >> 5] for opcode in range(256))
#: The byte where the transfer length starts, by the group code of the CDB.
_LENGTH_FIELD = (4, 7, 7, 0, 10, 6)
_OTHER_LENGTH_FIELD: Final[dict[int, int]] = {Opcode.WRITE_ATOMIC_16: 12, Opcode.COMPARE_AND_WRITE: 13}
_BYTCHK_MASK = 0x06


def reader(opcode: Opcode) -> Handler:
    """The handler of one of the READ commands."""
    unpack = READ_WRITE_LAYOUTS[opcode]

    def read(lu: LogicalUnit, task: ScsiTask) -> Plan:
        flags, lba, blocks, control = unpack(task.cdb)
        if flags & PROTECT_MASK or control & NACA or not blocks or blocks > lu.max_blocks or lba + blocks > lu.blocks:
            return refuse_aca(lu, task) or refuse(lu, task, Transfer(flags, lba, blocks)) or GOOD
        return ReadMedia(lu, lba << lu.shift, blocks << lu.shift)

    return read


def writer(opcode: Opcode) -> Handler:
    """The handler of one of the WRITE commands."""
    unpack = READ_WRITE_LAYOUTS[opcode]

    def write(lu: LogicalUnit, task: ScsiTask) -> Plan:
        flags, lba, blocks, control = unpack(task.cdb)
        if (
            lu.read_only
            or flags & PROTECT_MASK
            or control & NACA
            or not blocks
            or blocks > lu.max_blocks
            or lba + blocks > lu.blocks
        ):
            return refuse_aca(lu, task) or refuse(lu, task, Transfer(flags, lba, blocks), write=True) or GOOD
        return WriteMedia(lu, lba << lu.shift, blocks << lu.shift, bool(flags & FLAG_FUA) or lu.write_through)

    return write


def refuse_aca(lu: LogicalUnit, task: ScsiTask) -> Done | None:
    """A command that asks for an ACA condition, which no unit here establishes, is refused (SAM-5 5.9.2)."""
    control = CONTROL_BYTE[task.cdb[0]]
    return lu.check(INVALID_FIELD_IN_CDB, field=control) if task.cdb[control] & NACA else None


def refuse(
    lu: LogicalUnit, task: ScsiTask, fields: Transfer, *, write: bool = False, most: int | None = None
) -> Done | None:
    """What is wrong with a transfer, if anything: to move no blocks is none of it (SBC-3 5.8).

    ``most`` is how many blocks the command may move, if not as many as a READ.
    """
    if fields.flags & PROTECT_MASK:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    if fields.lba + fields.blocks > lu.blocks:
        first_bad = max(fields.lba, lu.blocks)
        return lu.check(LBA_OUT_OF_RANGE, information=first_bad)
    if fields.blocks > (lu.max_blocks if most is None else most):
        return lu.check(INVALID_FIELD_IN_CDB, field=transfer_length_field(task))
    return lu.check(lu.protection) if write and lu.protection is not None else None


def transfer_length_field(task: ScsiTask) -> int:
    """The byte of the CDB where the transfer length starts."""
    opcode = task.cdb[0]
    return _OTHER_LENGTH_FIELD.get(opcode, _LENGTH_FIELD[opcode >> 5])


def pre_fetch(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """PRE-FETCH: checked, and GOOD says that not all of it was put into a cache (SBC-3 5.7)."""
    _, lba, blocks = TRANSFER_PARSERS[task.cdb[0]](task.cdb)
    return _check_range(lu, lba, blocks) or GOOD


def synchronize_cache(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """SYNCHRONIZE CACHE of all blocks, whatever the range.

    The answer never comes early: IMMED allows that, it does not ask for it (SBC-3 5.26).
    """
    _, lba, blocks = TRANSFER_PARSERS[task.cdb[0]](task.cdb)
    return _check_range(lu, lba, blocks) or flush_plan(lu)


def _check_range(lu: LogicalUnit, lba: int, blocks: int) -> Done | None:
    return None if lba + blocks <= lu.blocks else lu.check(LBA_OUT_OF_RANGE, information=max(lba, lu.blocks))


def flush_plan(lu: LogicalUnit) -> Plan:
    """Flush the backend, if it has anything to flush."""
    return Async(partial(_flush, lu)) if lu.backend.capabilities & BackendCap.WRITE_CACHE else GOOD


async def _flush(lu: LogicalUnit) -> Done:
    try:
        await lu.backend.flush()
    except BackendError as error:
        return lu.complete_error(error, write=True)
    return GOOD


def verify(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """VERIFY: read the blocks, and with BYTCHK compare them with what the initiator sends (SBC-3 5.29)."""
    fields = Transfer(*TRANSFER_PARSERS[task.cdb[0]](task.cdb))
    bytchk = fields.flags & _BYTCHK_MASK
    if bytchk not in (0, BYTCHK_DATA, BYTCHK_BLOCK):
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    refused = refuse(lu, task, fields)
    if refused or not fields.blocks:
        return refused or GOOD
    sent = {0: 0, BYTCHK_DATA: fields.blocks, BYTCHK_BLOCK: 1}[bytchk]
    run = partial(_verify, lu, task, fields.lba << lu.shift, fields.blocks << lu.shift, sent << lu.shift)
    return Async(run, sent << lu.shift)


async def _verify(lu: LogicalUnit, task: ScsiTask, offset: int, length: int, sent: int) -> Done:
    """Read ``length`` bytes piece by piece and compare them with the ``sent`` ones, over and over."""
    expected = memoryview(task.data_out).cast("B")
    if len(expected) < sent:
        return lu.check(INVALID_FIELD_IN_CDB, field=transfer_length_field(task))
    staging = memoryview(bytearray(min(length, VERIFY_CHUNK)))
    for done in range(0, length, VERIFY_CHUNK):
        piece = staging[: length - done]
        try:
            await lu.backend.readv(offset + done, [piece])
        except BackendError as error:
            return lu.complete_error(error, write=False)
        if sent:
            differs = first_difference(piece, _window(expected, done % sent, len(piece), sent))
            if differs is not None:
                return lu.check(MISCOMPARE, information=done + differs)
        await asyncio.sleep(0)  # a backend in memory does not give way to others by itself
    return GOOD


def _window(expected: memoryview, start: int, length: int, period: int) -> bytes:
    """``length`` bytes from ``start`` on of the first ``period`` bytes of ``expected``, repeated as needed."""
    if start + length <= period:
        return bytes(expected[start : start + length])
    return bytes(expected[:period]) * (length // period)


def first_difference(stored: memoryview | bytearray, expected: bytes | memoryview) -> int | None:
    """The offset of the first byte that differs: equality by memcmp, then halving, never a loop over bytes."""
    data = bytes(stored)
    if data == expected:
        return None
    low, high = 0, len(data)  # data[:low] is equal, data[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if data[low:middle] == expected[low:middle] else (low, middle)
    return low
