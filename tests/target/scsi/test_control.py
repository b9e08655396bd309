"""TEST UNIT READY, READ CAPACITY, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL."""

from __future__ import annotations

from iser.scsi import cdb
from iser.scsi.capacity import parse_capacity_10, parse_capacity_16
from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.backends.memory import MemoryBackend
from target.scsi import GOOD
from tests.target.scsi.bench import Bench, codes_of, unit


def test_ready_and_prevent_allow() -> None:
    bench = Bench()
    assert bench.done(cdb.test_unit_ready()) == GOOD
    assert bench.done(bytes.fromhex("1e0000000100")) == GOOD


def test_capacities_of_512_and_4096() -> None:
    bench = Bench(unit(), unit(MemoryBackend(1 << 20, block_size=4096), 1))
    for lun, expected in ((0, (2048, 512)), (1, (256, 4096))):
        assert parse_capacity_10(bench.data(cdb.read_capacity_10(), lun)) == expected
        data = bench.data(cdb.read_capacity_16(), lun)
        assert parse_capacity_16(data) == expected
        assert (len(data), data[12:]) == (32, bytes(20))
    assert len(bench.data(cdb.read_capacity_16(12))) == 12
    assert bench.data(cdb.read_capacity_16(0)) == b""


def test_a_unit_past_two_to_the_32() -> None:
    large = unit()
    large.blocks = 2**32
    bench = Bench(large)
    assert bench.data(cdb.read_capacity_10()).hex() == "ffffffff00000200"
    assert parse_capacity_10(bench.data(cdb.read_capacity_10())) is None
    assert parse_capacity_16(bench.data(cdb.read_capacity_16())).blocks == 2**32


def test_other_service_actions_are_refused() -> None:
    bench = Bench()
    sense = bench.sense(bytes.fromhex("9e13") + bytes(14))
    assert (sense.key, sense.asc, sense.ascq, sense.field) == (5, 0x24, 0, 1)


async def test_start_does_nothing_and_stop_flushes() -> None:
    backend = FaultFilter(MemoryBackend(1 << 20), [Fault(Operation.FLUSH, Action.ERROR)])
    bench = Bench(unit(backend))
    assert await bench.run(cdb.start_stop_unit()) == GOOD
    assert codes_of(await bench.run(cdb.start_stop_unit(start=False))) == (3, 0x0C, 0)
    assert await bench.run(cdb.start_stop_unit(start=False)) == GOOD
    assert await Bench().run(cdb.start_stop_unit(start=False)) == GOOD


EJECT, LOAD = bytes.fromhex("1b0000000200"), bytes.fromhex("1b0000000300")
PREVENT, ALLOW = bytes.fromhex("1e0000000100"), bytes.fromhex("1e0000000000")
NO_MEDIUM, PREVENTED = (2, 0x3A, 0), (5, 0x53, 2)


def test_ejecting_and_loading() -> None:
    bench = Bench(unit(removable=True))
    other = bench.attach("other")
    for _ in range(2):
        assert bench.done(EJECT) == GOOD
        assert bench.codes(cdb.test_unit_ready()) == NO_MEDIUM
        assert bench.codes(cdb.read_blocks(0, 1), nexus=other) == NO_MEDIUM
    assert bench.done(LOAD) == GOOD
    assert bench.done(cdb.test_unit_ready()) == GOOD
    assert bench.codes(cdb.test_unit_ready(), nexus=other) == (6, 0x28, 0)
    assert bench.done(cdb.test_unit_ready(), nexus=other) == GOOD


def test_every_nexus_can_prevent_that() -> None:
    bench = Bench(unit(removable=True))
    other = bench.attach("other")
    assert bench.done(PREVENT) == GOOD
    for nexus in (bench.nexus, other):
        assert bench.codes(EJECT, nexus=nexus) == PREVENTED
    assert bench.done(ALLOW, nexus=other) == GOOD  # its own, of which there is none
    assert bench.codes(EJECT) == PREVENTED
    assert bench.done(ALLOW) == GOOD
    assert bench.done(EJECT) == GOOD
    assert bench.done(PREVENT) == GOOD
    assert bench.codes(LOAD) == PREVENTED
    bench.device.detach(bench.nexus)
    assert bench.done(LOAD, nexus=other) == GOOD
    assert bench.done(PREVENT, nexus=other) == GOOD
    bench.device.lun_reset(bench.device.luns[0])
    other.pending.clear()
    assert bench.done(EJECT, nexus=other) == GOOD


def test_power_conditions_and_stops_eject_nothing() -> None:
    bench = Bench(unit(removable=True), unit(lun=1))
    for condition in range(1, 16):
        assert bench.done(bytes((0x1B, 1, 0, 0, condition << 4 | 2, 0))) == GOOD
    for flags in (0, 1, 4, 5):
        assert bench.done(bytes((0x1B, 0, 0, 0, flags, 0))) == GOOD
    assert bench.done(cdb.test_unit_ready()) == GOOD
    for command in (EJECT, LOAD):
        assert bench.sense(command, 1).field == 4  # there is nothing to remove
    assert bench.done(PREVENT, 1) == GOOD


async def test_a_medium_that_cannot_be_flushed_stays_in() -> None:
    backend = FaultFilter(MemoryBackend(1 << 20), [Fault(Operation.FLUSH, Action.ERROR)])
    bench = Bench(unit(backend, removable=True))
    assert codes_of(await bench.run(EJECT)) == (3, 0x0C, 0)
    assert bench.done(cdb.test_unit_ready()) == GOOD
    assert await bench.run(EJECT) == GOOD
    assert bench.codes(cdb.test_unit_ready()) == NO_MEDIUM


def test_capacity_tells_the_physical_block_and_provisioning() -> None:
    bench = Bench(unit(physical_block=4096, thin=True), unit(MemoryBackend(1 << 20, block_size=4096), 1))
    assert bench.data(cdb.read_capacity_16())[13:16].hex() == "03c000"
    assert bench.data(cdb.read_capacity_16(), 1)[13:16].hex() == "000000"


def test_defect_lists_are_empty() -> None:
    bench = Bench()
    assert bench.data(bytes.fromhex("37001d00000000002000")).hex() == "001d0000"
    assert bench.data(bytes.fromhex("b71d00000000000000200000")).hex() == "001d000000000000"
    assert bench.data(bytes.fromhex("b71d00000000000000030000")).hex() == "001d00"


def test_log_pages() -> None:
    bench = Bench()
    assert bench.data(bytes.fromhex("4d004000000000004000")).hex() == "00000002002f"
    assert bench.data(bytes.fromhex("4d006f00000000004000")).hex() == "2f000008000003040000ff00"
    assert bench.data(bytes.fromhex("4d006f00000000000500")).hex() == "2f00000800"
    for command, field in (("4d014000", 1), ("4d004d00", 2), ("4d004001", 3), ("4d00400000000100", 5)):
        assert bench.sense(bytes.fromhex(command).ljust(10, b"\0")).field == field
