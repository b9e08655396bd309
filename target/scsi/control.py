"""The small control commands: TEST UNIT READY, capacities, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL."""

from __future__ import annotations

import struct

from iser.scsi.codes import INVALID_FIELD_IN_CDB
from iser.scsi.const import CAPACITY_10_MAX, ServiceAction
from target.scsi.media import flush_plan
from target.scsi.plan import GOOD, Done, Plan, ScsiTask
from target.scsi.unit import LogicalUnit

__all__ = ["prevent_allow", "read_capacity_10", "read_capacity_16", "start_stop_unit", "test_unit_ready"]

_START = 0x01
_ACTION_MASK = 0x1F


def test_unit_ready(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """Always ready."""
    del lu, task
    return GOOD


def prevent_allow(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """Accepted: there is nothing to remove."""
    del lu, task
    return GOOD


def start_stop_unit(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """Accepted; a stop flushes, as SBC-3 5.25 asks, and changes nothing else."""
    return GOOD if task.cdb[4] & _START else flush_plan(lu)


def read_capacity_10(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """The last LBA, or FFFFFFFFh when it does not fit, and the block size."""
    del task
    return Done(data_in=struct.pack(">II", min(lu.blocks - 1, CAPACITY_10_MAX), lu.block_size))


def read_capacity_16(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """The last LBA and the block size; no protection, no provisioning."""
    if task.cdb[1] & _ACTION_MASK != ServiceAction.READ_CAPACITY_16:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    allocation = int.from_bytes(task.cdb[10:14], "big")
    return Done(data_in=struct.pack(">QI20x", lu.blocks - 1, lu.block_size)[:allocation])
