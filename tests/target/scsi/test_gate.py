"""What units in a special state let pass."""

from __future__ import annotations

from iser.scsi import cdb
from iser.scsi.const import Opcode
from target.scsi import GOOD, Done
from target.scsi.commands import COMMANDS, Need
from target.scsi.reservations import Access
from tests.target.scsi.bench import Bench, codes_of, unit


def test_every_command_that_needs_a_medium_says_that_there_is_none() -> None:
    bench = Bench(unit(removable=True, thin=True))
    assert bench.done(bytes.fromhex("1b0000000200")) == GOOD
    for command in COMMANDS:
        request = bytes((command.opcode, command.action or 0)).ljust(16, b"\0")
        plan = bench.start(request)
        if command.need & Need.MEDIUM:
            assert isinstance(plan, Done), command
            assert codes_of(plan) == (2, 0x3A, 0), command
        elif isinstance(plan, Done) and plan.status == 2:
            assert codes_of(plan)[0] == 5, command


def test_writing_commands_need_more_access_than_reading_ones() -> None:
    by_name = {command.opcode: command.access for command in COMMANDS}
    assert {by_name[opcode] for opcode in (Opcode.WRITE_10, Opcode.UNMAP, Opcode.EXTENDED_COPY)} == {Access.WRITE}
    assert {by_name[opcode] for opcode in (Opcode.READ_10, Opcode.VERIFY_16, Opcode.MODE_SENSE_6)} == {Access.READ}


def test_no_command_establishes_an_aca() -> None:
    bench = Bench()
    for command in COMMANDS:
        request = bytearray(bytes((command.opcode, command.action or 0)).ljust(16, b"\0"))
        length = len(command.usage)
        request[length - 1] = 0x04
        sense = bench.sense(bytes(request))
        assert (sense.key, sense.asc, sense.ascq, sense.field) == (5, 0x24, 0, length - 1), command
    for passing in (cdb.request_sense(), cdb.report_luns()):
        wrong = bytearray(passing)
        wrong[-1] = 0x04
        assert bench.sense(bytes(wrong)).field == len(wrong) - 1
