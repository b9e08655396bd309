"""SANITIZE: what it does, what it stops, and that nothing stops it."""

from __future__ import annotations

import asyncio
import struct

import pytest

from iser.scsi import cdb
from iser.scsi.sense import decode_sense
from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.backends.memory import MemoryBackend
from target.scsi import GOOD, Async, sanitize
from target.scsi.sanitizing import Sanitizing
from tests.target.peer import until
from tests.target.scsi.bench import SIZE, Bench, codes_of, unit

OVERWRITE, ERASE, EXIT = 1, 2, 0x1F
IN_PROGRESS = (2, 0x04, 0x1B)


def command(action: int, length: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">BB5xHx", 0x48, flags | action, length)


def pattern(data: bytes, count: int = 1, flags: int = 0) -> bytes:
    return struct.pack(">BxH", flags | count, len(data)) + data


async def whole(bench: Bench) -> bytes:
    return (await bench.run(cdb.read_blocks(0, 1024))).data_in


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (pattern(b"\xaa"), b"\xaa" * 512),
        (pattern(b"abc"), (b"abc" * 171)[:512]),
        (pattern(b"z" * 512, 2), b"z" * 512),
        (pattern(b"\x0f", 2, 0x80), b"\xf0" * 512),  # INVERT: the second pass is turned over
    ],
)
async def test_overwrite(data: bytes, expected: bytes) -> None:
    bench = Bench()
    assert await bench.run(command(OVERWRITE, len(data)), data_out=data) == GOOD
    assert await whole(bench) == expected * 1024
    assert not bench.device.luns[0].gated


async def test_block_erase() -> None:
    bench = Bench(unit(thin=True), unit(lun=1))
    lu = bench.device.luns[0]
    await lu.backend.writev(0, [memoryview(b"x" * SIZE)], False)
    assert await bench.run(command(ERASE)) == GOOD
    assert await lu.backend.extents(0, SIZE, 5) == [(SIZE, False)]
    assert bench.codes(command(ERASE), 1) == (5, 0x24, 0)  # not of a unit that is not thin
    assert bench.done(command(EXIT)) == GOOD


def test_wrong_cdbs() -> None:
    bench = Bench(unit(thin=True), unit(MemoryBackend(SIZE, read_only=True), 1, thin=True))
    for action in set(range(32)) - {OVERWRITE, ERASE, EXIT}:
        assert bench.sense(command(action)).field == 1
    for action in (OVERWRITE, ERASE, EXIT):
        length = 16 if action == OVERWRITE else 0
        for place in range(2, 7):
            wrong = bytearray(command(action, length))
            wrong[place] = 1
            assert bench.sense(bytes(wrong)).field == place
        assert bench.sense(command(action, length, 0x40)).field == 1
    for length in (0, 1, 2, 3, 4, 517):
        assert bench.sense(command(OVERWRITE, length)).field == 7
    for action in (ERASE, EXIT):
        assert bench.sense(command(action, 8)).field == 7
    assert bench.codes(command(OVERWRITE, 16), 1) == (7, 0x27, 0)
    assert bench.codes(command(ERASE), 1) == (7, 0x27, 0)


@pytest.mark.parametrize(
    "data", [pattern(b"x", 0), pattern(b""), pattern(b"x", 1, 0x20), struct.pack(">BxHB", 1, 2, 0)]
)
async def test_wrong_parameters(data: bytes) -> None:
    bench = Bench()
    data = data.ljust(5, b"\0")
    assert codes_of(await bench.run(command(OVERWRITE, len(data)), data_out=data)) == (5, 0x26, 0)


async def test_it_stops_everything_else_and_outlives_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize, "OVERWRITE_RATE", 4 << 20)
    bench = Bench()
    lu = bench.device.luns[0]
    data = pattern(b"\xaa")
    assert await bench.run(command(OVERWRITE, len(data), 0x80), data_out=data) == GOOD  # IMMED
    await asyncio.sleep(0.02)
    for stopped in (cdb.test_unit_ready(), cdb.read_blocks(0, 1), cdb.write_blocks(0, 1), cdb.start_stop_unit()):
        assert bench.codes(stopped) == IN_PROGRESS
    for passing in (cdb.inquiry(), cdb.read_capacity_10(), cdb.mode_sense(0x3F), cdb.report_luns()):
        assert bench.done(passing).status == 0
    progress = bench.data(cdb.request_sense())
    assert decode_sense(progress)[:3] == IN_PROGRESS
    assert progress[15] == 0x80
    assert int.from_bytes(progress[16:18], "big") >= 0x8000  # a chunk is all there is of this unit
    bench.device.lun_reset(lu)
    bench.device.detach(bench.nexus)
    other = bench.attach("other")
    assert bench.codes(cdb.test_unit_ready(), nexus=other) == IN_PROGRESS
    await until(lambda: lu.sanitizing is None)
    assert bench.done(cdb.test_unit_ready(), nexus=other) == GOOD


async def test_who_gave_up_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize, "OVERWRITE_RATE", 2 << 20)
    bench = Bench()
    data = pattern(b"\xaa")
    plan = bench.start(command(OVERWRITE, len(data)), data_out=data)
    assert isinstance(plan, Async)
    task = plan.run.args[1]  # type: ignore[attr-defined]  # a partial
    running = asyncio.ensure_future(plan.run())
    await asyncio.sleep(0.02)
    task.aborted = True
    await asyncio.wait_for(running, 0.3)
    assert bench.codes(cdb.test_unit_ready()) == IN_PROGRESS
    await bench.device.close()  # ends it


async def test_a_failure_stays_until_it_is_left() -> None:
    for ause in (0, 0x20):
        bench = Bench(unit(FaultFilter(MemoryBackend(SIZE), [Fault(Operation.WRITE, Action.ERROR)])))
        data = pattern(b"\xaa")
        failed = await bench.run(command(OVERWRITE, len(data), ause), data_out=data)
        assert codes_of(failed) == (3, 0x31, 3)
        assert bench.codes(cdb.read_blocks(0, 1)) == (3, 0x31, 3)
        assert decode_sense(bench.data(cdb.request_sense())).key == 0
        if ause:
            assert bench.done(command(EXIT)) == GOOD
            assert bench.done(cdb.test_unit_ready()) == GOOD
        else:
            assert bench.codes(command(EXIT)) == (3, 0x31, 3)


async def test_exit_failure_mode_does_not_end_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize, "OVERWRITE_RATE", 4 << 20)
    bench = Bench()
    data = pattern(b"\xaa")
    await bench.run(command(OVERWRITE, len(data), 0x80), data_out=data)
    assert bench.codes(command(EXIT)) == (5, 0x24, 0)
    await bench.device.close()


def test_progress() -> None:
    assert [Sanitizing(100, done).progress for done in (0, 50, 100)] == [0, 32768, 65536]
