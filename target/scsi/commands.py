"""The table of commands: one row says what a command is called, where it is coded and who handles it."""

from __future__ import annotations

from typing import Final, NamedTuple

from iser.scsi.const import Opcode, ServiceAction
from target.scsi import control
from target.scsi.inquiry import inquiry
from target.scsi.media import Handler, reader, synchronize_cache, verify, writer
from target.scsi.mode import mode_sense

__all__ = ["COMMANDS", "Command"]


class Command(NamedTuple):
    """One command; ``action`` is None where the operation code alone tells it."""

    opcode: Opcode
    action: ServiceAction | None
    handler: Handler


#: Every command that goes to one logical unit.  REPORT LUNS and REQUEST SENSE belong to the target device itself.
COMMANDS: Final = (
    Command(Opcode.TEST_UNIT_READY, None, control.test_unit_ready),
    Command(Opcode.READ_6, None, reader(Opcode.READ_6)),
    Command(Opcode.WRITE_6, None, writer(Opcode.WRITE_6)),
    Command(Opcode.INQUIRY, None, inquiry),
    Command(Opcode.MODE_SENSE_6, None, mode_sense),
    Command(Opcode.START_STOP_UNIT, None, control.start_stop_unit),
    Command(Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL, None, control.prevent_allow),
    Command(Opcode.READ_CAPACITY_10, None, control.read_capacity_10),
    Command(Opcode.READ_10, None, reader(Opcode.READ_10)),
    Command(Opcode.WRITE_10, None, writer(Opcode.WRITE_10)),
    Command(Opcode.VERIFY_10, None, verify),
    Command(Opcode.SYNCHRONIZE_CACHE_10, None, synchronize_cache),
    Command(Opcode.MODE_SENSE_10, None, mode_sense),
    Command(Opcode.READ_16, None, reader(Opcode.READ_16)),
    Command(Opcode.WRITE_16, None, writer(Opcode.WRITE_16)),
    Command(Opcode.VERIFY_16, None, verify),
    Command(Opcode.SYNCHRONIZE_CACHE_16, None, synchronize_cache),
    Command(Opcode.SERVICE_ACTION_IN_16, ServiceAction.READ_CAPACITY_16, control.read_capacity_16),
    Command(Opcode.READ_12, None, reader(Opcode.READ_12)),
    Command(Opcode.WRITE_12, None, writer(Opcode.WRITE_12)),
    Command(Opcode.VERIFY_12, None, verify),
)
