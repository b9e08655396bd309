"""The small control commands: readiness, capacities, START STOP UNIT, PREVENT ALLOW, defects, LOG SENSE."""

from __future__ import annotations

import struct
from functools import partial
from typing import Final

from iser.scsi.codes import INVALID_FIELD_IN_CDB, MEDIUM_CHANGED, MEDIUM_REMOVAL_PREVENTED
from iser.scsi.const import CAPACITY_10_MAX, Opcode, Status
from target.scsi.gate import CONFLICT, conflicts
from target.scsi.media import flush_plan
from target.scsi.plan import GOOD, Async, Done, Plan, ScsiTask
from target.scsi.reservations import Access
from target.scsi.unit import LogicalUnit

__all__ = [
    "log_sense",
    "prevent_allow",
    "read_capacity_10",
    "read_capacity_16",
    "read_defect_data",
    "start_stop_unit",
    "test_unit_ready",
]

_START = 0x01
_LOEJ = 0x02
_NO_FLUSH = 0x04
_POWER_CONDITION = 0xF0
_PREVENT = 0x03
_LBPME, _LBPRZ = 0x80, 0x40
_DEFECT_BITS = 0x1F
_PAGE = 0x3F
_EXCEPTIONS_LOG = 0x2F
_NO_TEMPERATURE: Final = 0xFF
#: The pages of LOG SENSE with their parameters; Informational Exceptions has one, which says that there are none.
_LOGS: Final = {
    0x00: bytes((0x00, _EXCEPTIONS_LOG)),
    _EXCEPTIONS_LOG: bytes((0, 0, 0x03, 4, 0, 0, _NO_TEMPERATURE, 0)),
}


def test_unit_ready(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """Ready, if it came this far."""
    del lu, task
    return GOOD


def prevent_allow(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """PREVENT ALLOW MEDIUM REMOVAL: each nexus prevents for itself (SPC-4 6.17)."""
    if not task.cdb[4] & _PREVENT:
        lu.preventing.discard(task.nexus)
    elif conflicts(lu, task.nexus, Access.WRITE):
        return CONFLICT
    elif lu.options.removable:
        lu.preventing.add(task.nexus)
    return GOOD


def start_stop_unit(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """START STOP UNIT: load and eject a removable medium; a stop flushes and changes nothing else (SBC-3 5.25)."""
    bits = task.cdb[4]
    if (bits & _POWER_CONDITION or not bits & _START) and conflicts(lu, task.nexus, Access.WRITE):
        return CONFLICT
    if bits & _POWER_CONDITION:  # it is always active, and accepts that it might not be
        return GOOD
    if bits & _LOEJ:
        return _load_eject(lu, task, load=bool(bits & _START))
    return GOOD if bits & (_START | _NO_FLUSH) else flush_plan(lu)


def _load_eject(lu: LogicalUnit, task: ScsiTask, *, load: bool) -> Plan:
    if not lu.options.removable:
        return lu.check(INVALID_FIELD_IN_CDB, field=4)
    if lu.ejected != load:
        return GOOD
    if lu.preventing:
        return lu.check(MEDIUM_REMOVAL_PREVENTED)
    flush = flush_plan(lu)
    if load or not isinstance(flush, Async):
        return _set_ejected(lu, task, ejected=not load)
    return Async(partial(_eject_after, lu, task, flush))


async def _eject_after(lu: LogicalUnit, task: ScsiTask, flush: Async) -> Done:
    """A medium that cannot be flushed stays in."""
    done = await flush.run()
    return done if done.status != Status.GOOD else _set_ejected(lu, task, ejected=True)


def _set_ejected(lu: LogicalUnit, task: ScsiTask, *, ejected: bool) -> Done:
    lu.ejected = ejected
    lu.update_gate()
    if not ejected:
        lu.attention(MEDIUM_CHANGED, but=task.nexus)
    return GOOD


def read_capacity_10(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """The last LBA, or FFFFFFFFh when it does not fit, and the block size."""
    del task
    return Done(data_in=struct.pack(">II", min(lu.blocks - 1, CAPACITY_10_MAX), lu.block_size))


def read_capacity_16(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """The last LBA, the block size, the physical block, and whether blocks can be unmapped; no protection."""
    allocation = int.from_bytes(task.cdb[10:14], "big")
    provisioning = _LBPME | _LBPRZ if lu.thin else 0
    data = struct.pack(">QIBBBx16x", lu.blocks - 1, lu.block_size, 0, lu.physical_exponent, provisioning)
    return Done(data_in=data[:allocation])


def read_defect_data(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """READ DEFECT DATA: both lists are there, and empty (SBC-3 5.19, 5.20)."""
    del lu
    cdb = task.cdb
    if cdb[0] == Opcode.READ_DEFECT_DATA_10:
        return Done(data_in=bytes((0, cdb[2] & _DEFECT_BITS, 0, 0))[: int.from_bytes(cdb[7:9], "big")])
    return Done(data_in=bytes((0, cdb[1] & _DEFECT_BITS, 0, 0, 0, 0, 0, 0))[: int.from_bytes(cdb[6:10], "big")])


def log_sense(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """LOG SENSE: the list of pages, and Informational Exceptions (SPC-4 6.7)."""
    cdb = task.cdb
    if cdb[1] & 1:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)  # nothing can be saved
    parameters = _LOGS.get(cdb[2] & _PAGE)
    if parameters is None or cdb[3]:
        return lu.check(INVALID_FIELD_IN_CDB, field=3 if parameters is not None else 2)
    if any(cdb[5:7]):
        return lu.check(INVALID_FIELD_IN_CDB, field=5)
    data = struct.pack(">BxH", cdb[2] & _PAGE, len(parameters)) + parameters
    return Done(data_in=data[: int.from_bytes(cdb[7:9], "big")])
