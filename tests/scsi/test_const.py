"""The numbers that other code relies on."""

from __future__ import annotations

from iser.scsi.const import CAPACITY_10_MAX, Opcode, SenseKey, ServiceAction, Status, VpdPage


def test_numbers_are_those_of_the_standards() -> None:
    assert (Opcode.READ_10, Opcode.WRITE_16, Opcode.REPORT_LUNS) == (0x28, 0x8A, 0xA0)
    assert (Status.CHECK_CONDITION, Status.TASK_SET_FULL) == (0x02, 0x28)
    assert (SenseKey.ILLEGAL_REQUEST, SenseKey.UNIT_ATTENTION) == (0x5, 0x6)
    assert (ServiceAction.READ_CAPACITY_16, VpdPage.BLOCK_LIMITS, CAPACITY_10_MAX) == (0x10, 0xB0, 2**32 - 1)
