"""The table of commands: one row says what a command is called, who handles it, and what may stand in its way.

Dispatching, reservation conflicts, readiness and REPORT SUPPORTED OPERATION CODES all go by it.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final, NamedTuple

from iser.scsi.cdb import READ_WRITE_LAYOUTS
from iser.scsi.codes import INVALID_FIELD_IN_CDB
from iser.scsi.const import (
    CopyResult,
    MaintenanceAction,
    Opcode,
    ReserveIn,
    ReserveOut,
    SanitizeAction,
    ServiceAction,
)
from target.backends.base import BackendCap
from target.scsi import control, copy, persistent, provisioning, sanitize
from target.scsi.inquiry import inquiry
from target.scsi.media import Handler, pre_fetch, reader, refuse_aca, synchronize_cache, verify, writer
from target.scsi.mode import mode_select, mode_sense
from target.scsi.modify import compare_and_write, orwrite, write_and_verify, write_atomic, write_same
from target.scsi.plan import Plan, ScsiTask
from target.scsi.report import report_operation_codes, report_target_port_groups, report_task_functions
from target.scsi.reservations import Access
from target.scsi.unit import LogicalUnit

__all__ = ["COMMANDS", "DEVICE_COMMANDS", "Command", "Need", "handlers", "row_of", "without_aca"]


class Need(IntFlag):
    """What a command needs of its unit."""

    NOTHING = 0
    MEDIUM = 1  # a medium that is not ejected
    IDLE = 2  # no sanitize operation that runs or has failed
    THIN = 4  # blocks that can be unmapped
    ATOMIC = 8  # a backend that writes atomically


_MEDIA: Final = Need.MEDIUM | Need.IDLE


class Command(NamedTuple):
    """One command; ``action`` is None where the operation code alone tells it.

    ``usage`` has a bit for each one of the CDB that is looked at, but for the operation code and the service action,
    which stand for themselves.  ``seconds`` is how long an initiator should wait at least.
    """

    opcode: Opcode
    action: int | None
    handler: Handler
    usage: bytes
    access: Access
    need: Need = Need.NOTHING
    seconds: int = 30

    def supported(self, lu: LogicalUnit) -> bool:
        """Whether ``lu`` has this command."""
        if self.need & Need.ATOMIC and not lu.backend.capabilities & BackendCap.ATOMIC:
            return False
        return not self.need & Need.THIN or lu.thin


def _row(
    opcode: Opcode,
    handler: Handler,
    usage: str,
    access: Access,
    need: Need = Need.NOTHING,
    *,
    action: int | None = None,
    seconds: int = 30,
) -> Command:
    """A row; ``usage`` is hexadecimal, from byte 1 on."""
    mask = bytearray.fromhex(usage)
    mask[0] |= action or 0
    return Command(opcode, action, handler, bytes((opcode, *mask)), access, need, seconds)


# Usage of the media commands by the length of their CDB; the flags of byte 1 come first.
_SIX: Final = "1f ff ff ff 00"
_TEN: Final = " ff ff ff ff 00 ff ff 00"
_TWELVE: Final = " ff ff ff ff ff ff ff ff 00 00"
_SIXTEEN: Final = " ff ff ff ff ff ff ff ff ff ff ff ff 00 00"
_DPO_FUA: Final = "18"
_DPO_BYTCHK: Final = "16"
_ALLOCATION_IN_6: Final = "00 00 00 00 00"


def _report_operation_codes(lu: LogicalUnit, task: ScsiTask) -> Plan:
    return report_operation_codes(lu, task, (*DEVICE_COMMANDS, *COMMANDS))


def _device_level(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """REPORT LUNS and REQUEST SENSE are the target device's own; their rows are here to be reported."""
    del task
    return lu.check(INVALID_FIELD_IN_CDB, field=0)


#: The commands that the target device itself carries out.
DEVICE_COMMANDS: Final = (
    _row(Opcode.REQUEST_SENSE, _device_level, "01 00 00 ff 00", Access.ALWAYS),
    _row(Opcode.REPORT_LUNS, _device_level, "00 ff 00 00 00 ff ff ff ff 00 00", Access.ALWAYS),
)

_MAINTENANCE: Final = {
    MaintenanceAction.REPORT_TARGET_PORT_GROUPS: (report_target_port_groups, "e0 00 00 00 00 ff ff ff ff 00 00"),
    MaintenanceAction.REPORT_SUPPORTED_OPERATION_CODES: (_report_operation_codes, "00 87 ff ff ff ff ff ff ff 00 00"),
    MaintenanceAction.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS: (
        report_task_functions,
        "00 80 00 00 00 ff ff ff ff 00 00",
    ),
}
_RESERVE_IN: Final = {
    ReserveIn.READ_KEYS: persistent.read_keys,
    ReserveIn.READ_RESERVATION: persistent.read_reservation,
    ReserveIn.REPORT_CAPABILITIES: persistent.report_capabilities,
    ReserveIn.READ_FULL_STATUS: persistent.read_full_status,
}

#: Every command that goes to one logical unit.
COMMANDS: Final = (
    _row(Opcode.TEST_UNIT_READY, control.test_unit_ready, _ALLOCATION_IN_6, Access.FREE, _MEDIA),
    _row(Opcode.READ_6, reader(Opcode.READ_6), _SIX, Access.READ, _MEDIA),
    _row(Opcode.WRITE_6, writer(Opcode.WRITE_6), _SIX, Access.WRITE, _MEDIA),
    _row(Opcode.INQUIRY, inquiry, "01 ff ff ff 00", Access.ALWAYS),
    _row(Opcode.MODE_SELECT_6, mode_select, "11 00 00 ff 00", Access.WRITE, Need.IDLE),
    _row(Opcode.RESERVE_6, persistent.reserve, "00 00 00 00 00", Access.ALWAYS),
    _row(Opcode.RELEASE_6, persistent.release, "00 00 00 00 00", Access.ALWAYS),
    _row(Opcode.MODE_SENSE_6, mode_sense, "08 ff ff ff 00", Access.READ),
    _row(Opcode.START_STOP_UNIT, control.start_stop_unit, "01 00 00 f7 00", Access.OWN, Need.IDLE),
    _row(Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL, control.prevent_allow, "00 00 00 03 00", Access.OWN),
    _row(Opcode.READ_CAPACITY_10, control.read_capacity_10, "00 00 00 00 00 00 00 00 00", Access.FREE, Need.MEDIUM),
    _row(Opcode.READ_10, reader(Opcode.READ_10), _DPO_FUA + _TEN, Access.READ, _MEDIA),
    _row(Opcode.WRITE_10, writer(Opcode.WRITE_10), _DPO_FUA + _TEN, Access.WRITE, _MEDIA),
    _row(Opcode.WRITE_AND_VERIFY_10, write_and_verify, _DPO_BYTCHK + _TEN, Access.WRITE, _MEDIA),
    _row(Opcode.VERIFY_10, verify, _DPO_BYTCHK + _TEN, Access.READ, _MEDIA, seconds=60),
    _row(Opcode.PRE_FETCH_10, pre_fetch, "00" + _TEN, Access.READ, _MEDIA),
    _row(Opcode.SYNCHRONIZE_CACHE_10, synchronize_cache, "00" + _TEN, Access.WRITE, _MEDIA, seconds=60),
    _row(Opcode.READ_DEFECT_DATA_10, control.read_defect_data, "00 1f 00 00 00 00 ff ff 00", Access.READ, _MEDIA),
    _row(Opcode.WRITE_SAME_10, write_same, "18" + _TEN, Access.WRITE, _MEDIA, seconds=60),
    _row(
        Opcode.UNMAP,
        provisioning.unmap,
        "01 00 00 00 00 00 ff ff 00",
        Access.WRITE,
        _MEDIA | Need.THIN,
        seconds=60,
    ),
    _row(
        Opcode.SANITIZE,
        sanitize.overwrite,
        "a0 00 00 00 00 00 ff ff 00",
        Access.WRITE,
        _MEDIA,
        action=SanitizeAction.OVERWRITE,
        seconds=86400,
    ),
    _row(
        Opcode.SANITIZE,
        sanitize.block_erase,
        "a0 00 00 00 00 00 ff ff 00",
        Access.WRITE,
        _MEDIA | Need.THIN,
        action=SanitizeAction.BLOCK_ERASE,
        seconds=3600,
    ),
    _row(
        Opcode.SANITIZE,
        sanitize.exit_failure_mode,
        "80 00 00 00 00 00 ff ff 00",
        Access.WRITE,
        Need.MEDIUM,
        action=SanitizeAction.EXIT_FAILURE_MODE,
    ),
    _row(Opcode.LOG_SENSE, control.log_sense, "01 ff ff 00 ff ff ff ff 00", Access.ALWAYS),
    _row(Opcode.MODE_SELECT_10, mode_select, "11 00 00 00 00 00 ff ff 00", Access.WRITE, Need.IDLE),
    _row(Opcode.RESERVE_10, persistent.reserve, "13 00 00 00 00 00 00 00 00", Access.ALWAYS),
    _row(Opcode.RELEASE_10, persistent.release, "13 00 00 00 00 00 00 00 00", Access.ALWAYS),
    _row(Opcode.MODE_SENSE_10, mode_sense, "18 ff ff 00 00 00 ff ff 00", Access.READ),
    *(
        _row(Opcode.PERSISTENT_RESERVE_IN, handler, "00 00 00 00 00 00 ff ff 00", Access.FREE, action=action)
        for action, handler in _RESERVE_IN.items()
    ),
    *(
        _row(
            Opcode.PERSISTENT_RESERVE_OUT,
            persistent.reserve_out(action),
            "00 ff 00 00 ff ff ff ff 00",
            Access.OWN,
            Need.NOTHING,
            action=action,
        )
        for action in ReserveOut
    ),
    _row(
        Opcode.EXTENDED_COPY,
        copy.extended_copy,
        "00 00 00 00 00 00 00 00 00 ff ff ff ff 00 00",
        Access.WRITE,
        _MEDIA,
        action=0,
        seconds=3600,
    ),
    *(
        _row(
            Opcode.RECEIVE_COPY_RESULTS,
            handler,
            "00 ff 00 00 00 00 00 00 00 ff ff ff ff 00 00",
            Access.READ,
            action=action,
        )
        for action, handler in (
            (CopyResult.COPY_STATUS, copy.copy_status),
            (CopyResult.OPERATING_PARAMETERS, copy.operating_parameters),
        )
    ),
    _row(Opcode.READ_16, reader(Opcode.READ_16), _DPO_FUA + _SIXTEEN, Access.READ, _MEDIA),
    _row(
        Opcode.COMPARE_AND_WRITE,
        compare_and_write,
        "18 ff ff ff ff ff ff ff ff 00 00 00 ff 00 00",
        Access.WRITE,
        _MEDIA,
    ),
    _row(Opcode.WRITE_16, writer(Opcode.WRITE_16), _DPO_FUA + _SIXTEEN, Access.WRITE, _MEDIA),
    _row(Opcode.ORWRITE_16, orwrite, _DPO_FUA + _SIXTEEN, Access.WRITE, _MEDIA),
    _row(Opcode.WRITE_AND_VERIFY_16, write_and_verify, _DPO_BYTCHK + _SIXTEEN, Access.WRITE, _MEDIA),
    _row(Opcode.VERIFY_16, verify, _DPO_BYTCHK + _SIXTEEN, Access.READ, _MEDIA, seconds=60),
    _row(Opcode.PRE_FETCH_16, pre_fetch, "00" + _SIXTEEN, Access.READ, _MEDIA),
    _row(Opcode.SYNCHRONIZE_CACHE_16, synchronize_cache, "00" + _SIXTEEN, Access.WRITE, _MEDIA, seconds=60),
    _row(Opcode.WRITE_SAME_16, write_same, "19" + _SIXTEEN, Access.WRITE, _MEDIA, seconds=60),
    _row(Opcode.WRITE_ATOMIC_16, write_atomic, _DPO_FUA + _SIXTEEN, Access.WRITE, _MEDIA | Need.ATOMIC),
    _row(
        Opcode.SERVICE_ACTION_IN_16,
        control.read_capacity_16,
        "00 00 00 00 00 00 00 00 00 ff ff ff ff 00 00",
        Access.FREE,
        Need.MEDIUM,
        action=ServiceAction.READ_CAPACITY_16,
    ),
    _row(
        Opcode.SERVICE_ACTION_IN_16,
        provisioning.get_lba_status,
        "00 ff ff ff ff ff ff ff ff ff ff ff ff 00 00",
        Access.READ,
        _MEDIA,
        action=ServiceAction.GET_LBA_STATUS,
    ),
    *(
        _row(
            Opcode.MAINTENANCE_IN,
            handler,
            usage,
            Access.FREE if action is MaintenanceAction.REPORT_TARGET_PORT_GROUPS else Access.READ,
            action=action,
        )
        for action, (handler, usage) in _MAINTENANCE.items()
    ),
    _row(Opcode.READ_12, reader(Opcode.READ_12), _DPO_FUA + _TWELVE, Access.READ, _MEDIA),
    _row(Opcode.WRITE_12, writer(Opcode.WRITE_12), _DPO_FUA + _TWELVE, Access.WRITE, _MEDIA),
    _row(Opcode.WRITE_AND_VERIFY_12, write_and_verify, _DPO_BYTCHK + _TWELVE, Access.WRITE, _MEDIA),
    _row(Opcode.VERIFY_12, verify, _DPO_BYTCHK + _TWELVE, Access.READ, _MEDIA, seconds=60),
    _row(Opcode.READ_DEFECT_DATA_12, control.read_defect_data, "1f 00 00 00 00 ff ff ff ff 00 00", Access.READ, _MEDIA),
)

_ACTION = 0x1F
_ROWS: Final[dict[tuple[int, int | None], Command]] = {
    (command.opcode, command.action): command for command in (*DEVICE_COMMANDS, *COMMANDS)
}
_WITH_ACTIONS: Final = frozenset(command.opcode for command in COMMANDS if command.action is not None)


def row_of(cdb: bytes) -> Command | None:
    """The row of the command in ``cdb``."""
    return _ROWS.get((cdb[0], cdb[1] & _ACTION if cdb[0] in _WITH_ACTIONS else None))


def handlers() -> dict[int, Handler]:
    """The handler of each operation code, service actions and all."""
    return {command.opcode: _handler(command) for command in COMMANDS}


def _handler(command: Command) -> Handler:
    if command.opcode in READ_WRITE_LAYOUTS:
        return command.handler  # these look at the control byte themselves
    return without_aca(_by_action if command.opcode in _WITH_ACTIONS else command.handler)


def without_aca(handler: Handler) -> Handler:
    """``handler`` for commands that do not ask for an ACA condition; others are refused."""

    def start(lu: LogicalUnit, task: ScsiTask) -> Plan:
        return refuse_aca(lu, task) or handler(lu, task)

    return start


def _by_action(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """The command that the service action tells."""
    command = row_of(task.cdb)
    if command is None or not command.supported(lu):
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    return command.handler(lu, task)
