"""The table of commands."""

from __future__ import annotations

from iser.scsi.cdb import cdb_length
from iser.scsi.const import Opcode
from target.scsi.commands import COMMANDS, DEVICE_COMMANDS, row_of
from target.scsi.media import CONTROL_BYTE
from tests.target.scsi.bench import unit


def test_every_command_has_one_row() -> None:
    rows = [(command.opcode, command.action) for command in (*DEVICE_COMMANDS, *COMMANDS)]
    assert len(rows) == len(set(rows))
    assert {opcode for opcode, _ in rows} == set(Opcode)
    for opcode in Opcode:
        actions = [action for other, action in rows if other == opcode]
        assert actions == [None] or None not in actions


def test_usage_is_as_long_as_the_cdb_and_names_the_command() -> None:
    for command in (*DEVICE_COMMANDS, *COMMANDS):
        assert len(command.usage) == cdb_length(command.opcode), command
        assert command.usage[0] == command.opcode
        assert command.usage[CONTROL_BYTE[command.opcode]] == 0  # no NACA
        if command.action is not None:
            assert command.usage[1] & 0x1F == command.action, command
            assert row_of(command.usage.ljust(16, b"\0")) is command


def test_a_unit_has_only_the_commands_that_its_backend_can_do() -> None:
    plain, thin = unit(), unit(thin=True)
    missing = {command.opcode.name for command in COMMANDS if not command.supported(plain)}
    assert missing == {"UNMAP", "SANITIZE"}
    assert all(command.supported(thin) for command in COMMANDS)
