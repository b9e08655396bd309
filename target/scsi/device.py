"""The target device: finds the logical unit of a task, reports unit attentions, hands the command to its handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from iser.errors import UsageError
from iser.scsi.cdb import cdb_length
from iser.scsi.codes import (
    BUS_DEVICE_RESET,
    COMMANDS_CLEARED,
    INQUIRY_CHANGED,
    INVALID_FIELD_IN_CDB,
    INVALID_MESSAGE,
    INVALID_OPCODE,
    LUN_NOT_SUPPORTED,
    NO_SENSE,
    POWER_ON,
    REPORTED_LUNS_CHANGED,
    SANITIZE_IN_PROGRESS,
    SenseCode,
)
from iser.scsi.const import Opcode, Status
from iser.scsi.lun import REPORT_LUNS_WLUN, build_lun_list, lun_forms
from iser.scsi.sense import build_sense
from target.scsi.commands import Need, handlers, row_of, without_aca
from target.scsi.gate import gate
from target.scsi.inquiry import no_unit_inquiry
from target.scsi.nexus import Nexus
from target.scsi.plan import Done, Ordered, Plan, ScsiTask
from target.scsi.taskset import ACA, SIMPLE, Command
from target.scsi.unit import Identity, LogicalUnit

__all__ = ["MAX_LUNS", "TargetDevice"]

#: The most logical units of one target.
MAX_LUNS: Final = 1024

#: Commands that a waiting unit attention does not stop (SAM-5 5.14).
_PASS_ATTENTION = frozenset((Opcode.INQUIRY, Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE))
#: These tell what is there, and touch nothing: whoever looks for units finds those that are busy, too.
_AT_ONCE = frozenset(bytes((opcode,)) for opcode in _PASS_ATTENTION)
_DESC = 0x01
_WELL_KNOWN_ONLY = 1
_KNOWN_SELECTS = (0, 1, 2)


class TargetDevice:
    """The SCSI target device behind one iSCSI target name; ``luns`` maps LUN numbers to logical units.

    Raises UsageError for more than MAX_LUNS units or a number that cannot be addressed.
    """

    def __init__(self, name: str, luns: Mapping[int, LogicalUnit]) -> None:
        if len(luns) > MAX_LUNS:
            raise UsageError(f"{name}: {len(luns)} LUNs are more than {MAX_LUNS}; spread them over several targets")
        self.name = name
        self.luns = dict(sorted(luns.items()))
        self._units = {field: unit for lun, unit in self.luns.items() for field in lun_forms(lun)}
        self._identity = Identity.derive(name, 0)
        self._lun_list = build_lun_list(self.luns)
        self._nexuses: set[Nexus] = set()
        self._handlers = handlers()
        self._handlers[Opcode.REQUEST_SENSE] = without_aca(self._request_sense)
        self._handlers[Opcode.REPORT_LUNS] = without_aca(self._report_luns_of_unit)
        #: Ends the tasks of nexuses on a unit; set by whoever runs them, for PREEMPT AND ABORT.
        self.abort_tasks: Callable[[LogicalUnit, Sequence[Nexus]], Awaitable[None]] | None = None
        #: The commands on a unit that have not ended; set by whoever runs them, for its task set.
        self.running: Callable[[LogicalUnit], Iterable[Command]] | None = None
        for unit in self.luns.values():
            unit.neighbours = self.luns.values
            unit.abort_tasks = self._abort_tasks
            unit.running = partial(self._running, unit)

    async def _abort_tasks(self, unit: LogicalUnit, nexuses: Sequence[Nexus]) -> None:
        if self.abort_tasks is not None:
            await self.abort_tasks(unit, nexuses)

    def _running(self, unit: LogicalUnit) -> Iterable[Command]:
        return self.running(unit) if self.running is not None else ()

    def set_ports(self, ports: Sequence[int]) -> None:
        """The device is to be reached by the target ports with these relative identifiers; if not as before, tell."""
        for unit in self.luns.values():
            if unit.ports != ports:
                unit.ports = ports
                unit.attention(INQUIRY_CHANGED)

    def attach(self, initiator: str, port: int = 1) -> Nexus:
        """A new I_T nexus, of the initiator port of that name, by the target port of that relative identifier.

        Its first command to each unit will find POWER ON.  Give it back to :meth:`detach`.
        """
        nexus = Nexus(initiator, self.luns.values(), port)
        self._nexuses.add(nexus)
        for unit in self.luns.values():
            unit.nexuses.add(nexus)
        return nexus

    def detach(self, nexus: Nexus) -> None:
        """The nexus is lost.  Idempotent."""
        self._nexuses.discard(nexus)
        for unit in self.luns.values():
            unit.forget(nexus)

    def take_over(self, nexus: Nexus, old: TargetDevice) -> None:
        """``nexus`` goes on with this device, which has units in common with ``old``, and is told of a difference.

        Commands that it runs on units which are no longer there have to be waited for by whoever runs them.
        """
        old._nexuses.discard(nexus)
        self._nexuses.add(nexus)
        if old.luns == self.luns:
            return
        for unit in set(old.luns.values()).difference(self.luns.values()):
            unit.forget(nexus)
            nexus.pending.pop(unit, None)
        for unit in self.luns.values():
            if nexus not in unit.nexuses:
                unit.nexuses.add(nexus)
                nexus.raise_attention(unit, POWER_ON)
            nexus.raise_attention(unit, REPORTED_LUNS_CHANGED)

    def unit(self, lun_field: int) -> LogicalUnit | None:
        """The logical unit that the 64-bit LUN field addresses."""
        return self._units.get(lun_field)

    def start(self, task: ScsiTask) -> Plan:
        """Check ``task`` and say how to carry it out.  Never raises for what an initiator may send."""
        cdb = task.cdb
        unit = self._units.get(task.lun)
        handler = self._handlers.get(cdb[0]) if len(cdb) >= 16 else None
        if unit is None or handler is None or unit.gated or task.nexus.pending or task.attr > SIMPLE:
            return self._start_checked(unit, task)
        return handler(unit, task)

    def _start_checked(self, unit: LogicalUnit | None, task: ScsiTask) -> Plan:
        """As :meth:`start`, for whatever is not the plain case."""
        if unit is None:
            return self._no_unit(task)
        waits = unit.task_set is not None and task.cdb[:1] not in _AT_ONCE
        if waits or SIMPLE < task.attr < ACA:
            return Ordered(unit)
        return self.begin(unit, task)

    def begin(self, unit: LogicalUnit, task: ScsiTask) -> Plan:
        """As :meth:`start`, of a command that nothing older on ``unit`` keeps from beginning."""
        opcode = task.cdb[0] if task.cdb else -1
        if opcode not in _PASS_ATTENTION:
            code = task.nexus.take_attention(unit)
            if code is not None:
                return unit.check(code)
        handler = self._handlers.get(opcode)
        if handler is None:
            return unit.check(INVALID_OPCODE, field=0)
        if len(task.cdb) < cdb_length(opcode):
            return unit.check(INVALID_FIELD_IN_CDB, field=len(task.cdb))
        return self._stopped(unit, task) or handler(unit, task)

    def _stopped(self, unit: LogicalUnit, task: ScsiTask) -> Done | None:
        """What stops a command that is well-formed: an attribute that no unit has, or the state of the unit."""
        if task.attr >= ACA:
            return unit.check(INVALID_MESSAGE)
        row = row_of(task.cdb)
        if not unit.gated or row is None:
            return None
        medium, sanitize = bool(row.need & Need.MEDIUM), not row.need & Need.IDLE
        return gate(unit, task.nexus, row.opcode, row.access, medium=medium, sanitize=sanitize)

    def _no_unit(self, task: ScsiTask) -> Done:
        """What a LUN that is not there answers (SPC-4 6.6.2, 6.33, 6.39)."""
        opcode = task.cdb[0] if task.cdb else -1
        complete = len(task.cdb) >= cdb_length(opcode) if opcode >= 0 else False
        if complete and opcode == Opcode.INQUIRY and not task.cdb[1] & 1:
            return no_unit_inquiry(self._identity, task)
        if complete and opcode == Opcode.REPORT_LUNS and task.lun in (0, REPORT_LUNS_WLUN):
            return self._report_luns(task, descriptor=False)
        if complete and opcode == Opcode.REQUEST_SENSE:
            return _sense_data(task, LUN_NOT_SUPPORTED)
        return Done(Status.CHECK_CONDITION, build_sense(LUN_NOT_SUPPORTED))

    def _request_sense(self, unit: LogicalUnit, task: ScsiTask) -> Plan:
        """Sense travels with the status, so there is a unit attention, which this takes, or the unit's own state."""
        code = task.nexus.take_attention(unit)
        if code is None and unit.sanitizing is not None and not unit.sanitizing.failed:
            return _sense_data(task, SANITIZE_IN_PROGRESS, unit.sanitizing.progress)
        return _sense_data(task, code or NO_SENSE)

    def _report_luns_of_unit(self, unit: LogicalUnit, task: ScsiTask) -> Plan:
        return self._report_luns(task, descriptor=unit.descriptor_sense)

    def _report_luns(self, task: ScsiTask, *, descriptor: bool) -> Done:
        select = task.cdb[2]
        if select not in _KNOWN_SELECTS:
            sense = build_sense(INVALID_FIELD_IN_CDB, field=2, descriptor=descriptor)
            return Done(Status.CHECK_CONDITION, sense)
        # Who reads the list needs not be told to (SPC-4 6.33).
        task.nexus.withdraw(REPORTED_LUNS_CHANGED)
        data = build_lun_list(()) if select == _WELL_KNOWN_ONLY else self._lun_list
        return Done(data_in=data[: int.from_bytes(task.cdb[6:10], "big")])

    def lun_reset(self, unit: LogicalUnit) -> None:
        """Reset ``unit`` and tell every nexus, also the one that asked for it (SAM-5 6.3.3).

        Ending its tasks is the session layer's.
        """
        unit.reset()
        unit.attention(BUS_DEVICE_RESET)

    def target_reset(self) -> None:
        """:meth:`lun_reset` of every unit."""
        for unit in self.luns.values():
            self.lun_reset(unit)

    def commands_cleared(self, unit: LogicalUnit, victims: Iterable[Nexus]) -> None:
        """Tell ``victims`` that another initiator ended their tasks on ``unit`` (CLEAR TASK SET)."""
        for nexus in victims:
            nexus.raise_attention(unit, COMMANDS_CLEARED)

    async def close(self) -> None:
        """Close every backend, all of them even if one fails; raises the first BackendError."""
        results = await asyncio.gather(*(unit.close() for unit in self.luns.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _sense_data(task: ScsiTask, code: SenseCode, progress: int | None = None) -> Done:
    """``code`` as the data of REQUEST SENSE, in the format that its DESC bit asks for."""
    sense = build_sense(code, progress=progress, descriptor=bool(task.cdb[1] & _DESC))
    return Done(data_in=sense[: task.cdb[4]])
