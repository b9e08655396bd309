"""EXTENDED COPY(LID1) and RECEIVE COPY RESULTS (SPC-4 6.4, 6.23): blocks from unit to unit of one target."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from iser.errors import BackendError
from iser.scsi.codes import (
    COPY_ABORTED,
    COPY_TARGET_NOT_REACHABLE,
    INVALID_FIELD_IN_CDB,
    INVALID_PARAMETER,
    PARAMETER_LIST_LENGTH_ERROR,
    TOO_MANY_SEGMENTS,
    TOO_MANY_TARGETS,
    UNREACHABLE_COPY_TARGET,
    UNSUPPORTED_SEGMENT_TYPE,
    UNSUPPORTED_TARGET_TYPE,
    SenseCode,
)
from target.scsi.copystate import MAX_HELD, CopyStatus
from target.scsi.gate import conflicts
from target.scsi.nexus import Nexus
from target.scsi.plan import GOOD, Async, Done, Plan, ScsiTask
from target.scsi.reservations import Access
from target.scsi.unit import LogicalUnit

__all__ = ["MAX_DESCRIPTORS", "MAX_SEGMENTS", "MAX_TARGETS", "copy_status", "extended_copy", "operating_parameters"]

#: Limits of one parameter list, all reported by OPERATING PARAMETERS.
MAX_TARGETS: Final = 8
MAX_SEGMENTS: Final = 32
MAX_DESCRIPTORS: Final = MAX_TARGETS * 32 + MAX_SEGMENTS * 28  # bytes
#: The longest parameter list that is fetched to be refused.
MAX_LIST: Final = 64 << 10
#: Bytes that are copied at a time.
CHUNK: Final = 1 << 20

_HEADER = struct.Struct(">BBH4xII")
_TARGET_LENGTH = 32
_IDENTIFICATION = 0xE4
_BLOCK_TO_BLOCK = 0x02
_SEGMENT = struct.Struct(">BBHHHxxHQQ")
_DESTINATION_COUNT = 0x02  # the DC bit: the number of blocks is in those of the destination
_NAA_BINARY = (0x01, 0x03)
_HOLD_USAGES = (0x00,)
_COMPLETED, _FAILED = 0x01, 0x02
_KIB = 1


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """The parameter list, or a segment, ends the command with ``code``."""

    def __init__(self, code: SenseCode) -> None:
        super().__init__(code)
        self.code = code


class _Segment(NamedTuple):
    """``length`` bytes from byte ``start`` of one target to byte ``to`` of another one."""

    source: LogicalUnit
    start: int
    destination: LogicalUnit
    to: int
    length: int


def extended_copy(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """EXTENDED COPY(LID1)."""
    length = int.from_bytes(task.cdb[10:14], "big")
    if not length:
        return GOOD
    if not _HEADER.size <= length <= MAX_LIST:
        return lu.check(PARAMETER_LIST_LENGTH_ERROR)
    return Async(partial(_extended_copy, lu, task, length), length)


async def _extended_copy(lu: LogicalUnit, task: ScsiTask, length: int) -> Done:
    data = bytes(task.data_out)
    try:
        if len(data) < length:
            raise _Refused(PARAMETER_LIST_LENGTH_ERROR)
        identifier, flags, targets, segments = _split(data)
        starts = range(0, len(targets), _TARGET_LENGTH)
        units = [_find(lu, task.nexus, targets[at : at + _TARGET_LENGTH]) for at in starts]
        parsed = list(_parse_segments(segments))
    except _Refused as refused:
        return lu.check(refused.code)
    status, done = await _copy_all(lu, task, units, parsed)
    if flags >> 3 & 0x03 in _HOLD_USAGES:
        lu.copies.put(task.nexus.id, identifier, status)
    return done


def _split(data: bytes) -> tuple[int, int, bytes, bytes]:
    """(list identifier, flags, target descriptors, segment descriptors), all within the limits."""
    identifier, flags, target_length, segment_length, inline = _HEADER.unpack_from(data)
    lists = target_length + segment_length
    if lists > MAX_DESCRIPTORS or _HEADER.size + lists + inline > len(data) or target_length % _TARGET_LENGTH:
        raise _Refused(PARAMETER_LIST_LENGTH_ERROR)
    if inline:
        raise _Refused(INVALID_PARAMETER)
    if target_length // _TARGET_LENGTH > MAX_TARGETS:
        raise _Refused(TOO_MANY_TARGETS)
    middle = _HEADER.size + target_length
    return identifier, flags, data[_HEADER.size : middle], data[middle : middle + segment_length]


def _find(lu: LogicalUnit, nexus: Nexus, descriptor: bytes) -> LogicalUnit | None:
    """The unit of this target that has the designator; None for one that ``nexus`` cannot reach itself."""
    if descriptor[0] != _IDENTIFICATION:
        raise _Refused(UNSUPPORTED_TARGET_TYPE)
    code_set, kind, length = descriptor[4] & 0x0F, descriptor[5] & 0x0F, descriptor[7]
    if (code_set, kind) != _NAA_BINARY:
        return None
    name = descriptor[8 : 8 + length]
    visible = (unit for unit in lu.neighbours() if nexus in unit.nexuses)
    return next((unit for unit in visible if unit.identity.naa.to_bytes(8, "big") == name), None)


class _Raw(NamedTuple):
    """A segment descriptor as it came."""

    by_destination: bool
    source: int
    destination: int
    blocks: int
    start: int
    to: int


def _parse_segments(data: bytes) -> Iterator[_Raw]:
    count = 0
    while data:
        count += 1
        if count > MAX_SEGMENTS:
            raise _Refused(TOO_MANY_SEGMENTS)
        if data[0] != _BLOCK_TO_BLOCK:
            raise _Refused(UNSUPPORTED_SEGMENT_TYPE)
        if len(data) < _SEGMENT.size:
            raise _Refused(PARAMETER_LIST_LENGTH_ERROR)
        _, flags, length, source, destination, blocks, start, to = _SEGMENT.unpack_from(data)
        if length != _SEGMENT.size - 4:
            raise _Refused(INVALID_PARAMETER)
        yield _Raw(bool(flags & _DESTINATION_COUNT), source, destination, blocks, start, to)
        data = data[_SEGMENT.size :]


async def _copy_all(
    lu: LogicalUnit, task: ScsiTask, units: list[LogicalUnit | None], segments: list[_Raw]
) -> tuple[CopyStatus, Done]:
    """One segment after the other; the first that fails ends the copy."""
    written = 0
    for number, raw in enumerate(segments):
        try:
            segment = _resolve(task.nexus, units, raw)
            await _copy(segment, task)
        except _Refused as refused:
            return CopyStatus(False, number, written), lu.check(refused.code)
        except BackendError:
            return CopyStatus(False, number, written), lu.check(COPY_ABORTED)
        written += segment.length
    return CopyStatus(True, len(segments), written), GOOD


def _resolve(nexus: Nexus, units: list[LogicalUnit | None], raw: _Raw) -> _Segment:
    """Check a segment against the units that it names."""
    if max(raw.source, raw.destination) >= len(units):
        raise _Refused(UNREACHABLE_COPY_TARGET)
    source, destination = units[raw.source], units[raw.destination]
    if source is None or destination is None or not _usable(source, nexus, Access.READ):
        raise _Refused(COPY_TARGET_NOT_REACHABLE)
    if not _usable(destination, nexus, Access.WRITE) or destination.read_only:
        raise _Refused(COPY_TARGET_NOT_REACHABLE)
    length = raw.blocks << (destination if raw.by_destination else source).shift
    start, to = raw.start << source.shift, raw.to << destination.shift
    fits = start + length <= source.blocks << source.shift and to + length <= destination.blocks << destination.shift
    if not fits or length % destination.block_size or length % source.block_size:
        raise _Refused(COPY_ABORTED)
    return _Segment(source, start, destination, to, length)


def _usable(unit: LogicalUnit, nexus: Nexus, access: Access) -> bool:
    return not unit.ejected and unit.sanitizing is None and not conflicts(unit, nexus, access)


async def _copy(segment: _Segment, task: ScsiTask) -> None:
    """A chunk at a time, so that others get their turn, and whoever aborts the command need not wait for its end."""
    staging = memoryview(bytearray(min(segment.length, CHUNK)))
    for done in range(0, segment.length, CHUNK):
        if task.aborted:
            raise _Refused(COPY_ABORTED)
        piece = staging[: segment.length - done]
        await segment.source.backend.readv(segment.start + done, [piece])
        await segment.destination.backend.writev(segment.to + done, [piece], segment.destination.write_through)
        await asyncio.sleep(0)


def copy_status(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """COPY STATUS of a list identifier whose result is held."""
    held = lu.copies.get(task.nexus.id, task.cdb[2])
    if held is None:
        return lu.check(INVALID_FIELD_IN_CDB, field=2)
    state = _COMPLETED if held.good else _FAILED
    data = struct.pack(">IBHBI", 8, state, held.segments, _KIB, held.written >> 10)
    return _cut(task, data)


def operating_parameters(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """OPERATING PARAMETERS: the limits."""
    del lu
    codes = bytes((_BLOCK_TO_BLOCK, _IDENTIFICATION))
    limits = struct.pack(
        ">B3xHHIIIII2xHBBBB3xB",
        0,  # no copy without a list identifier
        MAX_TARGETS,
        MAX_SEGMENTS,
        MAX_DESCRIPTORS,
        0xFFFFFFFF,  # bytes of a segment: its own field is the limit
        0,  # no inline data
        MAX_HELD * 12,
        0,  # no streams
        MAX_HELD,
        MAX_HELD,
        9,  # granularity of data segments, log2
        0,
        0,
        len(codes),
    )
    data = limits + codes
    return _cut(task, struct.pack(">I", len(data)) + data)


def _cut(task: ScsiTask, data: bytes) -> Done:
    return Done(data_in=data[: int.from_bytes(task.cdb[10:14], "big")])
