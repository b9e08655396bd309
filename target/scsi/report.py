"""MAINTENANCE IN: what commands and functions there are, and through which ports (SPC-4 6.35, 6.36, 6.37)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from iser.scsi.codes import INVALID_FIELD_IN_CDB
from target.scsi.inquiry import PORT_GROUP
from target.scsi.plan import Done, Plan, ScsiTask
from target.scsi.unit import LogicalUnit

if TYPE_CHECKING:
    from target.scsi.commands import Command

__all__ = ["report_operation_codes", "report_target_port_groups", "report_task_functions"]

_RCTD = 0x80
_OPTIONS = 0x07
_ALL, _ONE, _ONE_WITH_ACTION, _ONE_OF_EITHER = range(4)
_CTDP, _SERVACTV = 0x02, 0x01
_CTDP_OF_ONE = 0x80
_SUPPORTED, _NOT_SUPPORTED = 3, 1
_NOMINAL: Final = 1  # seconds

_REPD = 0x80
#: ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET and TARGET RESET; there is never an ACA to clear.
_FUNCTIONS: Final = 0x80 | 0x40 | 0x10 | 0x08 | 0x02
_EXTENDED_HEADER = 1
_ACTIVE_OPTIMIZED = 0x00
_AO_SUPPORTED = 0x01


def report_operation_codes(lu: LogicalUnit, task: ScsiTask, commands: Sequence[Command]) -> Plan:
    """REPORT SUPPORTED OPERATION CODES, from the table that commands are dispatched by."""
    cdb = task.cdb
    timeouts = bool(cdb[2] & _RCTD)
    options, opcode = cdb[2] & _OPTIONS, cdb[3]
    action = int.from_bytes(cdb[4:6], "big")
    rows = [command for command in commands if command.supported(lu)]
    if options == _ALL:
        body = b"".join(_descriptor(command, timeouts) for command in rows)
        return _cut(struct.pack(">I", len(body)) + body, cdb)
    if options > _ONE_OF_EITHER:
        return lu.check(INVALID_FIELD_IN_CDB, field=2)
    of_code = [command for command in rows if command.opcode == opcode]
    has_actions = any(command.action is not None for command in of_code)
    if of_code and options != _ONE_OF_EITHER and has_actions != (options == _ONE_WITH_ACTION):
        return lu.check(INVALID_FIELD_IN_CDB, field=2)
    found = next((command for command in of_code if command.action in (None, action)), None)
    return _cut(_one(found, timeouts), cdb)


def _cut(data: bytes, cdb: bytes) -> Done:
    """All three commands have their allocation length in the same place."""
    return Done(data_in=data[: int.from_bytes(cdb[6:10], "big")])


def _descriptor(command: Command, timeouts: bool) -> bytes:
    flags = (_CTDP if timeouts else 0) | (_SERVACTV if command.action is not None else 0)
    head = struct.pack(">BxHxBH", command.opcode, command.action or 0, flags, len(command.usage))
    return head + (_timeouts(command) if timeouts else b"")


def _timeouts(command: Command) -> bytes:
    return struct.pack(">HxxII", 10, _NOMINAL, command.seconds)


def _one(command: Command | None, timeouts: bool) -> bytes:
    if command is None:
        return struct.pack(">xBH", _NOT_SUPPORTED, 0)
    head = struct.pack(">xBH", _SUPPORTED | (_CTDP_OF_ONE if timeouts else 0), len(command.usage))
    return head + command.usage + (_timeouts(command) if timeouts else b"")


def report_task_functions(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS."""
    del lu
    extended = bool(task.cdb[2] & _REPD)
    data = bytes((_FUNCTIONS, 0, 0, 12 if extended else 0)) + bytes(12 if extended else 0)
    return _cut(data, task.cdb)


def report_target_port_groups(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """REPORT TARGET PORT GROUPS: one group of all ports, active and optimized."""
    form = task.cdb[1] >> 5
    if form > _EXTENDED_HEADER:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    header = struct.pack(">BB2x", _EXTENDED_HEADER << 4, 0) if form else b""
    group = struct.pack(">BBHxBxB", _ACTIVE_OPTIMIZED, _AO_SUPPORTED, PORT_GROUP, 0, len(lu.ports))
    body = header + group + b"".join(struct.pack(">HH", 0, port) for port in lu.ports)
    return _cut(struct.pack(">I", len(body)) + body, task.cdb)
