"""The short way of plain reads and writes: from the bytes of a command to its answer without an object in between.

It is a twin of what :class:`target.session.Session`, :class:`target.execution.Execution` and the device server do, for
the commands that are nearly all of the load: READ and WRITE (10) and (16), SIMPLE, in order, of exactly the length that
the initiator expects, on a unit in no special state, whose data is to be had, or stored, at once.  Whatever else comes,
and whatever is wrong with it, takes the long way, which knows how to say so.  A test compares the two byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sized
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, Protocol

from iser.datamover import QuickPath
from iser.login import NegotiatedParameters
from iser.pdu import COMMAND_READ, COMMAND_WRITE, FINAL, RESERVED_TAG
from iser.pdu.layout import ReadBuffer
from iser.scsi.cdb import FLAG_FUA, NACA, PROTECT_MASK
from iser.scsi.const import Opcode
from iser.sg import scatter
from target.counters import LunCounters
from target.numbering import Numbering
from target.scsi import LogicalUnit
from target.scsi.taskset import SIMPLE

if TYPE_CHECKING:
    from target.execution import Execution

__all__ = ["COMMAND_10", "COMMAND_16", "QuickWay", "QuickWayUser"]

#: A SCSI Command (RFC 7143 section 11.3) with a CDB of 10 bytes: opcode, flags, AHS and data length, LUN, ITT, EDTL,
#: CmdSN, ExpStatSN; operation code, flags, LBA, group, blocks, control.
COMMAND_10: Final = struct.Struct(">BBxxIQIIIIBBIBHB6x")
#: The rest of a CDB of 16 bytes, at its place in the same PDU: LBA, blocks, group, control.
COMMAND_16: Final = struct.Struct(">34xQIBB")

_MASK: Final = 0xFFFFFFFF
# Plain integers, which compare faster than those of an enumeration.
_READ_10, _WRITE_10, _READ_16, _WRITE_16 = map(int, (Opcode.READ_10, Opcode.WRITE_10, Opcode.READ_16, Opcode.WRITE_16))
_OF_16: Final = frozenset((_READ_16, _WRITE_16))
_READ: Final = FINAL | COMMAND_READ
_WRITE: Final = FINAL | COMMAND_WRITE


class QuickWayUser(Protocol):
    """What the session tells."""

    def quick_unit(self, lun: int) -> tuple[LogicalUnit, LunCounters] | None:
        """The logical unit that a LUN field means and where its commands are counted; None for no unit."""


class QuickWay:
    """The short way of one session.

    ``tasks`` are the session's running ones; ``others`` is what must be empty, or order is not what it seems.
    """

    __slots__ = ("_burst", "_datamover", "_execution", "_numbers", "_others", "_tasks", "_units", "_user")

    def __init__(
        self,
        user: QuickWayUser,
        execution: Execution,
        datamover: QuickPath,
        params: NegotiatedParameters,
        numbers: Numbering,
        tasks: Mapping[int, object],
        others: tuple[Sized, Sized],
    ) -> None:
        self._user = user
        self._execution = execution
        self._datamover = datamover
        self._burst = params.first_burst_length if params.immediate_data else 0
        self._numbers = numbers
        self._tasks = tasks
        self._others = others
        self._units: dict[int, tuple[LogicalUnit, LunCounters]] = {}  # by LUN field

    def forget_units(self) -> None:
        """LUN fields may mean other units now."""
        self._units.clear()

    def start(self, buffer: ReadBuffer, offset: int, data: memoryview | bytes) -> bool:
        """See :data:`iser.datamover.api.QuickStart`."""
        _, flags, _, lun, itt, edtl, cmd_sn, _, opcode, cdb_flags, lba, _, blocks, control = COMMAND_10.unpack_from(
            buffer, offset
        )
        if opcode in _OF_16:
            lba, blocks, _, control = COMMAND_16.unpack_from(buffer, offset)
            opcode -= _READ_16 - _READ_10
        numbers = self._numbers
        held, draining = self._others
        if (
            cmd_sn != numbers.exp_cmd_sn
            or numbers.open >= numbers.depth
            or held
            or draining
            or itt in self._tasks
            or itt == RESERVED_TAG
            or control & NACA
            or cdb_flags & PROTECT_MASK
        ):
            return False
        entry = self._units.get(lun) or self._learn(lun)
        if entry is None:
            return False
        unit, counters = entry
        if (
            unit.gated
            or self._execution.nexus.pending
            or not blocks
            or blocks > unit.max_blocks
            or lba + blocks > unit.blocks
            or blocks << unit.shift != edtl
        ):
            return False
        if opcode == _READ_10:
            return (flags | SIMPLE) == _READ | SIMPLE and not data and self._read(unit, counters, lba, edtl, itt)
        return (
            opcode == _WRITE_10
            and (flags | SIMPLE) == _WRITE | SIMPLE
            and not cdb_flags & FLAG_FUA
            and len(data) == edtl
            and self._write(unit, counters, lba, data, itt)
        )

    def _learn(self, lun: int) -> tuple[LogicalUnit, LunCounters] | None:
        entry = self._user.quick_unit(lun)
        if entry is not None:
            self._units[lun] = entry
        return entry

    def _read(self, unit: LogicalUnit, counters: LunCounters, lba: int, length: int, itt: int) -> bool:
        datamover = self._datamover
        if length > datamover.quick_limit:
            return False
        started = perf_counter_ns()
        views = unit.backend.views(lba << unit.shift, length)
        sn = 0
        if views is None and datamover.blind:
            views = unit.backend.lend(lba << unit.shift, length)
        if views is None:
            staged = self._execution.read_at_once(unit.backend, lba << unit.shift, length)
            if staged is None:
                return False
            views, sn = staged
        numbers = self._numbers
        numbers.exp_cmd_sn = exp_cmd_sn = (numbers.exp_cmd_sn + 1) & _MASK
        stat_sn = numbers.stat_sn
        numbers.stat_sn = (stat_sn + 1) & _MASK
        datamover.quick_read(itt, views, length, stat_sn, exp_cmd_sn, numbers.max_cmd_sn, sn)
        counters.finished(started, 0, length, False)
        return True

    def _write(self, unit: LogicalUnit, counters: LunCounters, lba: int, data: memoryview | bytes, itt: int) -> bool:
        length = len(data)
        if unit.read_only or unit.write_through or length > self._burst:
            return False
        started = perf_counter_ns()
        backend = unit.backend
        views = backend.views(lba << unit.shift, length)
        if views is not None:
            scatter(data, views)
        elif not backend.writev_now(lba << unit.shift, (data,), False):
            return False
        numbers = self._numbers
        numbers.exp_cmd_sn = exp_cmd_sn = (numbers.exp_cmd_sn + 1) & _MASK
        stat_sn = numbers.stat_sn
        numbers.stat_sn = (stat_sn + 1) & _MASK
        self._datamover.quick_good(itt, stat_sn, exp_cmd_sn, numbers.max_cmd_sn)
        counters.finished(started, 0, length, True)
        return True
