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
