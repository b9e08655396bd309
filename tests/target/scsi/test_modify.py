"""WRITE AND VERIFY, WRITE ATOMIC, WRITE SAME, COMPARE AND WRITE, ORWRITE."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest

from iser.scsi import cdb
from iser.scsi.const import Opcode
from iser.scsi.sense import decode_sense
from target.backends.base import Backend
from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.scsi import GOOD, Async, LogicalUnit, ScsiTask
from target.scsi.modify import MAX_WRITE_SAME
from tests.target.scsi.bench import SIZE, Bench, codes_of, unit

BLOCKS = SIZE // 512
VERIFYING = [Opcode.WRITE_AND_VERIFY_10, Opcode.WRITE_AND_VERIFY_12, Opcode.WRITE_AND_VERIFY_16]
SAMES = [Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16]
CHECKED = [*VERIFYING, *SAMES, Opcode.WRITE_ATOMIC_16, Opcode.ORWRITE_16, Opcode.COMPARE_AND_WRITE]
NACA_PLACE = {10: 9, 12: 11, 16: 15}


async def stored(lu: LogicalUnit, offset: int, length: int) -> bytes:
    data = bytearray(length)
    await lu.backend.readv(offset, [memoryview(data)])
    return bytes(data)


def sent(opcode: Opcode, blocks: int) -> bytes:
    """As much data as the command takes."""
    return bytes(512 * {Opcode.COMPARE_AND_WRITE: 2 * blocks}.get(opcode, 1 if opcode in SAMES else blocks))


@pytest.mark.parametrize("opcode", CHECKED)
async def test_wrong_cdbs(opcode: Opcode) -> None:
    bench = Bench(unit(), unit(MemoryBackend(SIZE, read_only=True), 1))
    for lba in (BLOCKS, 2**31):
        sense = bench.sense(cdb.transfer(opcode, lba, 1))
        assert (sense.key, sense.asc, sense.ascq, sense.information) == (5, 0x21, 0, lba)
    assert bench.codes(cdb.transfer(opcode, BLOCKS - 1, 2)) == (5, 0x21, 0)
    for protect in range(1, 8):
        assert bench.codes(cdb.transfer(opcode, 0, 1, protect << 5)) == (5, 0x24, 0)
    assert bench.codes(cdb.transfer(opcode, 0, 1), 1) == (7, 0x27, 0)
    naca = bytearray(cdb.transfer(opcode, 0, 1))
    naca[-1] = 0x04
    assert bench.sense(bytes(naca)).field == NACA_PLACE[len(naca)]
    if opcode not in SAMES:
        assert bench.done(cdb.transfer(opcode, 0, 0)) == GOOD
    if opcode in VERIFYING:
        assert bench.sense(cdb.transfer(opcode, 0, 1025)).field == {10: 7, 12: 6, 16: 10}[len(naca)]


@pytest.mark.parametrize("opcode", [*SAMES, Opcode.WRITE_ATOMIC_16, Opcode.ORWRITE_16, Opcode.COMPARE_AND_WRITE])
async def test_too_little_or_too_much_data_is_refused(opcode: Opcode) -> None:
    bench = Bench()
    right = sent(opcode, 2)
    for wrong in (right[:-512], right + bytes(512), b""):
        assert codes_of(await bench.run(cdb.transfer(opcode, 0, 2), data_out=wrong)) == (5, 0x0E, 3)
    assert await bench.run(cdb.transfer(opcode, 0, 2), data_out=right) == GOOD or opcode == Opcode.COMPARE_AND_WRITE


@pytest.mark.parametrize("opcode", VERIFYING)
@pytest.mark.parametrize("bytchk", [0, cdb.BYTCHK_DATA])
async def test_write_and_verify(opcode: Opcode, bytchk: int) -> None:
    bench = Bench()
    data = os.urandom(1024)
    assert await bench.run(cdb.transfer(opcode, 3, 2, bytchk), data_out=data) == GOOD
    assert await stored(bench.device.luns[0], 1536, 1024) == data
    assert bench.codes(cdb.transfer(opcode, 3, 2, cdb.BYTCHK_BLOCK)) == (5, 0x24, 0)


class Forgetful(MemoryBackend):
    """Stores the first byte of a write wrong."""

    __slots__ = ()

    async def writev(self, offset: int, buffers: list[memoryview], fua: bool) -> None:  # type: ignore[override]
        await super().writev(offset, [memoryview(b"\xff"), buffers[0][1:]], fua)


async def test_what_comes_back_different_is_a_miscompare() -> None:
    bench = Bench(unit(Forgetful(SIZE)))
    assert await bench.run(cdb.transfer(Opcode.WRITE_AND_VERIFY_10, 0, 1), data_out=bytes(512)) == GOOD
    compared = cdb.transfer(Opcode.WRITE_AND_VERIFY_10, 0, 1, cdb.BYTCHK_DATA)
    assert codes_of(await bench.run(compared, data_out=bytes(512))) == (0xE, 0x1D, 0)


@pytest.mark.parametrize(("on", "expected"), [(Operation.WRITE, (3, 0x0C, 0)), (Operation.READ, (3, 0x11, 0))])
async def test_errors_of_write_and_verify_are_told_apart(on: Operation, expected: tuple[int, int, int]) -> None:
    bench = Bench(unit(FaultFilter(MemoryBackend(SIZE), [Fault(on, Action.ERROR)])))
    done = await bench.run(cdb.transfer(Opcode.WRITE_AND_VERIFY_10, 0, 1), data_out=bytes(512))
    assert codes_of(done) == expected


@pytest.mark.parametrize("opcode", [Opcode.WRITE_ATOMIC_16, Opcode.ORWRITE_16, Opcode.COMPARE_AND_WRITE, *SAMES])
async def test_errors_of_the_backend(opcode: Opcode) -> None:
    class Atomic(FaultFilter):
        pass

    backend = Atomic(MemoryBackend(SIZE), [Fault(Operation.WRITE, Action.FULL)])
    backend.capabilities |= MemoryBackend(512).capabilities
    done = await Bench(unit(backend)).run(cdb.transfer(opcode, 0, 1), data_out=sent(opcode, 1))
    assert codes_of(done) == (3, 0x0C, 0)


async def test_write_atomic() -> None:
    bench = Bench(unit(), unit(lun=1, physical_block=4096))
    data = os.urandom(4096)
    assert await bench.run(cdb.transfer(Opcode.WRITE_ATOMIC_16, 1, 8), data_out=data) == GOOD
    assert await stored(bench.device.luns[0], 512, 4096) == data
    assert await bench.run(cdb.transfer(Opcode.WRITE_ATOMIC_16, 8, 8), 1, data_out=data) == GOOD
    assert bench.sense(cdb.transfer(Opcode.WRITE_ATOMIC_16, 1, 8), 1).field == 2
    assert bench.sense(cdb.transfer(Opcode.WRITE_ATOMIC_16, 8, 7), 1).field == 12
    assert bench.sense(cdb.transfer(Opcode.WRITE_ATOMIC_16, 0, 1 << 16 | 1)).field == 10  # an atomic boundary


async def test_no_write_atomic_where_the_backend_has_none(tmp_path: Path) -> None:
    bench = Bench(unit(FileBackend(tmp_path / "disk", SIZE)))
    assert bench.codes(cdb.transfer(Opcode.WRITE_ATOMIC_16, 0, 1)) == (5, 0x20, 0)
    await bench.device.close()


async def test_orwrite_sets_bits() -> None:
    bench = Bench()
    lu = bench.device.luns[0]
    for data, expected in ((b"\xa5", b"\xa5"), (b"\x5a", b"\xff"), (b"\x00", b"\xff")):
        assert await bench.run(cdb.transfer(Opcode.ORWRITE_16, 2, 4), data_out=data * 2048) == GOOD
        assert await stored(lu, 1024, 2048) == expected * 2048
    assert await stored(lu, 512, 512) == bytes(512)


async def test_compare_and_write() -> None:
    bench = Bench()
    lu = bench.device.luns[0]
    await lu.backend.writev(0, [memoryview(b"a" * 1024)], False)
    command = cdb.transfer(Opcode.COMPARE_AND_WRITE, 0, 2)
    wrong = b"a" * 700 + b"b" * 324
    done = await bench.run(command, data_out=wrong + b"c" * 1024)
    assert codes_of(done) == (0xE, 0x1D, 0)
    assert decode_sense(done.sense).information == 700
    assert await stored(lu, 0, 1024) == b"a" * 1024
    assert await bench.run(command, data_out=b"a" * 1024 + b"c" * 1024) == GOOD
    assert await stored(lu, 0, 1536) == b"c" * 1024 + bytes(512)
    assert bench.done(cdb.transfer(Opcode.COMPARE_AND_WRITE, 0, 0)) == GOOD
    assert codes_of(await bench.run(cdb.transfer(Opcode.COMPARE_AND_WRITE, 0, 0), data_out=bytes(512))) == (5, 0x24, 0)


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_of_many_at_once_one_compare_and_write_wins(kind: str, tmp_path: Path) -> None:
    backend: Backend = MemoryBackend(SIZE) if kind == "memory" else FileBackend(tmp_path / "disk", SIZE)
    bench = Bench(unit(backend))
    attempts = [
        bench.run(cdb.transfer(Opcode.COMPARE_AND_WRITE, 5, 1), data_out=bytes(512) + bytes((number,)) * 512)
        for number in range(1, 20)
    ]
    results = await asyncio.gather(*attempts)
    (winner,) = [number for number, done in enumerate(results, 1) if done == GOOD]
    assert await stored(bench.device.luns[0], 2560, 512) == bytes((winner,)) * 512
    await bench.device.close()


@pytest.mark.parametrize("opcode", SAMES)
async def test_write_same(opcode: Opcode) -> None:
    bench = Bench(unit(), unit(lun=1, thin=True))
    block = os.urandom(512)
    assert await bench.run(cdb.transfer(opcode, 5, 3), data_out=block) == GOOD
    assert await stored(bench.device.luns[0], 2048, 2560) == bytes(512) + block * 3 + bytes(512)
    assert await bench.run(cdb.transfer(opcode, BLOCKS - 5, 0), data_out=block) == GOOD  # to the end
    assert await stored(bench.device.luns[0], SIZE - 6 * 512, 6 * 512) == bytes(512) + block * 5
    assert bench.codes(cdb.transfer(opcode, 0, 0), 1) == (5, 0x24, 0)  # WSNZ
    for flags in (0x10, 0x08, 0x18):  # ANCHOR, UNMAP of a unit that is not thin
        assert bench.sense(cdb.transfer(opcode, 0, 1, flags)).field == 1
    assert bench.codes(cdb.transfer(opcode, 0, 1, 0x18), 1) == (5, 0x24, 0)


@pytest.mark.parametrize("opcode", SAMES)
async def test_write_same_unmaps_what_is_zeros_and_writes_the_rest(opcode: Opcode) -> None:
    bench = Bench(unit(thin=True))
    lu = bench.device.luns[0]
    await lu.backend.writev(0, [memoryview(b"x" * SIZE)], False)
    assert await bench.run(cdb.transfer(opcode, 8, 16, 0x08), data_out=bytes(512)) == GOOD
    assert await lu.backend.extents(0, 16384, 9) == [(4096, True), (8192, False), (4096, True)]
    assert await bench.run(cdb.transfer(opcode, 8, 8, 0x08), data_out=b"y" * 512) == GOOD
    assert await stored(lu, 4096, 8192) == b"y" * 4096 + bytes(4096)
    assert await bench.run(cdb.transfer(opcode, 16, 8), data_out=bytes(512)) == GOOD
    assert await lu.backend.extents(8192, 8192, 9) == [(8192, True)]  # without UNMAP, zeros take their space


async def test_write_same_without_data() -> None:
    bench = Bench(unit(thin=True))
    lu = bench.device.luns[0]
    await lu.backend.writev(0, [memoryview(b"x" * SIZE)], False)
    assert await bench.run(cdb.transfer(Opcode.WRITE_SAME_16, 1, 2, 0x01)) == GOOD
    assert await stored(lu, 0, 2048) == b"x" * 512 + bytes(1024) + b"x" * 512
    assert await bench.run(cdb.transfer(Opcode.WRITE_SAME_16, 8, 8, 0x09)) == GOOD
    assert await lu.backend.extents(4096, 4096, 9) == [(4096, False)]


def test_write_same_has_a_limit() -> None:
    lu = unit()
    lu.blocks = 1 << 20
    bench = Bench(lu)
    assert bench.codes(cdb.transfer(Opcode.WRITE_SAME_16, 0, MAX_WRITE_SAME + 1)) == (5, 0x24, 0)
    assert bench.codes(cdb.transfer(Opcode.WRITE_SAME_16, 0, 0)) == (5, 0x24, 0)  # all of it is more than that
    assert bench.codes(cdb.transfer(Opcode.WRITE_SAME_16, 0, MAX_WRITE_SAME)) == (5, 0x0E, 3)  # the data is missing


def test_what_block_limits_allow_is_taken() -> None:
    """MAXIMUM TRANSFER LENGTH is of these commands, too (SBC-3 6.6.4); WRITE ATOMIC has a maximum of its own."""
    most = 32 << 20 >> 9
    bench = Bench(unit(MemoryBackend(64 << 20), max_transfer=32 << 20))
    for command in (
        cdb.verify(0, most, bytchk=cdb.BYTCHK_DATA),
        cdb.transfer(Opcode.WRITE_AND_VERIFY_16, 0, most),
        cdb.transfer(Opcode.WRITE_AND_VERIFY_10, 0, 65535),
    ):
        plan = bench.start(command)
        assert isinstance(plan, Async)
        assert plan.data_out_length in (most << 9, 65535 << 9)
    task = ScsiTask(0, cdb.transfer(Opcode.ORWRITE_16, 0, most).ljust(16, b"\0"), 1, 1, most << 9, bench.nexus)
    assert isinstance(bench.device.start(task), Async)
    atomic = struct.pack(">BBQHHxx", Opcode.WRITE_ATOMIC_16, 0, 0, 0, 32769)
    assert bench.sense(atomic).field == 12
    assert struct.unpack_from(">I", bench.data(cdb.inquiry(64, 0xB0)), 44) == (32768,)


async def test_an_aborted_write_same_ends_soon() -> None:
    bench = Bench(unit(MemoryBackend(16 << 20)))
    (lu,) = bench.device.luns.values()
    task = ScsiTask(0, cdb.transfer(Opcode.WRITE_SAME_16, 0, 16 << 11).ljust(16, b"\0"), 1, 1, 512, bench.nexus)
    plan = bench.device.start(task)
    assert isinstance(plan, Async)
    task.data_out = b"x" * 512
    running = asyncio.ensure_future(plan.run())
    await asyncio.sleep(0)
    task.aborted = True
    await running
    assert await stored(lu, 0, 512) == b"x" * 512
    assert not any(await stored(lu, 15 << 20, 1 << 20))
