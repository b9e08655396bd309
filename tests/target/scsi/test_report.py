"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS, REPORT TARGET PORT GROUPS."""

from __future__ import annotations

import struct

import pytest

from iser.scsi.const import Opcode
from target.scsi.commands import COMMANDS, DEVICE_COMMANDS
from tests.target.scsi.bench import Bench, unit

Descriptor = tuple[int, int, int, int]  # operation code, service action, flags, length of the CDB


def codes_cdb(
    options: int, opcode: int = 0, action: int = 0, allocation: int = 65535, *, timeouts: bool = False
) -> bytes:
    return struct.pack(">BBBBHIxx", 0xA3, 0x0C, timeouts << 7 | options, opcode, action, allocation)


def all_codes(bench: Bench, *, timeouts: bool = False, lun: int = 0) -> list[Descriptor]:
    data = bench.data(codes_cdb(0, timeouts=timeouts), lun)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    size = 20 if timeouts else 8
    entries = [data[at : at + size] for at in range(4, len(data), size)]
    if timeouts:
        assert all(entry[8:10] == b"\0\x0a" and int.from_bytes(entry[16:20], "big") >= 30 for entry in entries)
    return [struct.unpack_from(">BxHxBH", entry) for entry in entries]


@pytest.mark.parametrize("timeouts", [False, True])
def test_all_commands_are_those_that_are_carried_out(timeouts: bool) -> None:
    bench = Bench(unit(thin=True), unit(lun=1))
    found = all_codes(bench, timeouts=timeouts)
    assert [(code, action if flags & 1 else None) for code, action, flags, _ in found] == [
        (command.opcode, command.action) for command in (*DEVICE_COMMANDS, *COMMANDS)
    ]
    assert all(bool(flags & 2) == timeouts for _, _, flags, _ in found)
    assert all(action == 0 for _, action, flags, _ in found if not flags & 1)
    assert Opcode.UNMAP not in [code for code, *_ in all_codes(bench, lun=1)]
    for opcode in set(range(256)) - {code for code, *_ in found}:
        assert bench.codes(bytes((opcode,))) == (5, 0x20, 0)


@pytest.mark.parametrize("timeouts", [False, True])
def test_one_command_at_a_time(timeouts: bool) -> None:
    bench = Bench(unit(thin=True))
    for code, action, flags, length in all_codes(bench):
        right, wrong = (2, 1) if flags & 1 else (1, 2)
        for options in (right, 3):
            data = bench.data(codes_cdb(options, code, action, timeouts=timeouts))
            assert (data[1], int.from_bytes(data[2:4], "big")) == (0x83 if timeouts else 0x03, length)
            assert data[4] == code
            assert len(data) == 4 + length + (12 if timeouts else 0)
        assert bench.sense(codes_cdb(wrong, code, action)).field == 2


def test_usage_data_has_the_flags_that_count() -> None:
    bench = Bench()
    flags = {Opcode.READ_10: 0x18, Opcode.VERIFY_10: 0x16, Opcode.WRITE_AND_VERIFY_16: 0x16, Opcode.ORWRITE_16: 0x18}
    for opcode, expected in flags.items():
        assert bench.data(codes_cdb(1, opcode))[5] == expected


def test_what_is_not_supported_and_what_cannot_be_asked() -> None:
    bench = Bench()
    assert bench.data(codes_cdb(1, 0xC1)).hex() == "00010000"
    assert bench.data(codes_cdb(1, Opcode.UNMAP)).hex() == "00010000"  # the unit is not thin
    assert bench.data(codes_cdb(2, 0x9E, 0x1F)).hex() == "00010000"
    for options in range(4, 8):
        assert bench.sense(codes_cdb(options)).field == 2
    assert len(bench.data(codes_cdb(0, allocation=10))) == 10


def test_task_management_functions() -> None:
    bench = Bench()
    assert bench.data(bytes.fromhex("a30d0000000000000010")).hex() == "da000000"
    assert bench.data(bytes.fromhex("a30d8000000000000010")).hex() == "da00000c" + "00" * 12
    assert len(bench.data(bytes.fromhex("a30d0000000000000002"))) == 2


def test_target_port_groups() -> None:
    bench = Bench()
    group = "0001000100000001" + "00000001"
    assert bench.data(bytes.fromhex("a30a0000000000000040")).hex() == "0000000c" + group
    assert bench.data(bytes.fromhex("a32a0000000000000040")).hex() == "00000010" + "10000000" + group
    bench.set_ports(1, 258)
    assert (
        bench.data(bytes.fromhex("a30a0000000000000040")).hex()
        == "00000010" + group[:-9] + "2" + "00000001" + "00000102"
    )
    assert bench.sense(bytes.fromhex("a34a0000000000000040")).field == 1
    assert len(bench.data(bytes.fromhex("a30a0000000000000006"))) == 6
    assert bench.sense(bytes.fromhex("a3040000000000000040")).field == 1
