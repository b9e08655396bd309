"""The table of commands."""

from __future__ import annotations

from iser.scsi.const import Opcode
from target.scsi.commands import COMMANDS


def test_every_operation_code_has_one_row_or_is_of_the_device() -> None:
    rows = [command.opcode for command in COMMANDS]
    assert len(rows) == len(set(rows))
    assert set(Opcode) - set(rows) == {Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE}
