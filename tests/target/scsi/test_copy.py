"""EXTENDED COPY and RECEIVE COPY RESULTS."""

from __future__ import annotations

import asyncio
import os
import struct

import pytest

from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.backends.memory import MemoryBackend
from target.scsi import GOOD, Async, Done, LogicalUnit, ScsiTask
from target.scsi.copy import MAX_DESCRIPTORS, MAX_LIST, MAX_SEGMENTS, MAX_TARGETS
from tests.target.scsi.bench import SIZE, Bench, codes_of, unit

BLOCKS = SIZE // 512
ABORTED, UNREACHABLE, NOT_REACHABLE = (0xA, 0, 0), (0xA, 0x08, 4), (0xA, 0x0D, 2)


def target(lu: LogicalUnit | None, kind: int = 0xE4) -> bytes:
    """A target descriptor; of no unit that there is, when it is None."""
    name = lu.identity.naa.to_bytes(8, "big") if lu else bytes(8)
    return struct.pack(">B3xBBxB20s4x", kind, 1, 3, len(name), name)


def segment(blocks: int, start: int, to: int, *, source: int = 0, destination: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">BBHHHxxHQQ", 2, flags, 24, source, destination, blocks, start, to)


def listed(targets: list[bytes], segments: list[bytes], identifier: int = 1, usage: int = 0, inline: int = 0) -> bytes:
    first, second = b"".join(targets), b"".join(segments)
    return struct.pack(">BBH4xII", identifier, usage << 3, len(first), len(second), inline) + first + second


def copy_cdb(length: int) -> bytes:
    return struct.pack(">BB8xIxx", 0x83, 0, length)


async def copy(bench: Bench, data: bytes) -> Done:
    return await bench.run(copy_cdb(len(data)), data_out=data)


def results_cdb(action: int, identifier: int = 0, allocation: int = 4096) -> bytes:
    return struct.pack(">BBB7xIxx", 0x84, action, identifier, allocation)


async def stored(lu: LogicalUnit, block: int, blocks: int) -> bytes:
    data = bytearray(blocks << lu.shift)
    await lu.backend.readv(block << lu.shift, [memoryview(data)])
    return bytes(data)


async def test_copies_within_a_unit_and_from_unit_to_unit() -> None:
    bench = Bench(unit(), unit(MemoryBackend(4 * SIZE, block_size=4096), 1))
    one, other = bench.device.luns.values()
    data = os.urandom(8192)
    await one.backend.writev(0, [memoryview(data)], False)
    segments = [
        segment(16, 0, BLOCKS - 16),
        segment(16, 0, 5, destination=1),
        segment(1, 6, 100, source=1, destination=0, flags=0x02),  # DC: one block of the destination: too little
    ]
    assert await copy(bench, listed([target(one), target(other)], segments[:2])) == GOOD
    assert await stored(one, BLOCKS - 16, 16) == data
    assert await stored(other, 5, 2) == data
    assert codes_of(await copy(bench, listed([target(one), target(other)], segments))) == ABORTED
    back = segment(8, 6, 100, source=1, destination=0, flags=0x02)
    assert await copy(bench, listed([target(one), target(other)], [back])) == GOOD
    assert await stored(one, 100, 8) == data[4096:]


async def test_results_are_held_for_who_asked() -> None:
    bench = Bench()
    (lu,) = bench.device.luns.values()
    for identifier in (1, 2, 3):
        assert bench.sense(results_cdb(0, identifier)).field == 2
    assert await copy(bench, listed([target(lu)], [segment(16, 0, 16)] * 2, 1)) == GOOD
    assert bench.data(results_cdb(0, 1)).hex() == "0000000801000201" + "00000010"
    assert len(bench.data(results_cdb(0, 1, 5))) == 5
    failed = await copy(bench, listed([target(lu)], [segment(16, 0, 16), segment(1, BLOCKS, 0)], 2))
    assert codes_of(failed) == ABORTED
    assert bench.data(results_cdb(0, 2)).hex() == "0000000802000101" + "00000008"
    for usage in (2, 3):
        assert await copy(bench, listed([target(lu)], [segment(1, 0, 16)], 3, usage)) == GOOD
    assert bench.sense(results_cdb(0, 3)).field == 2
    other = bench.attach("other")
    assert bench.codes(results_cdb(0, 1), nexus=other) == (5, 0x24, 0)
    bench.device.lun_reset(lu)
    bench.nexus.pending.clear()
    assert bench.sense(results_cdb(0, 1)).field == 2


def test_limits_are_reported() -> None:
    data = Bench().data(results_cdb(3))
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert struct.unpack_from(">HHI", data, 8) == (MAX_TARGETS, MAX_SEGMENTS, MAX_DESCRIPTORS)
    assert data[43:] == b"\x02\x02\xe4"
    for action in (1, 2, 4, 31):
        assert Bench().sense(results_cdb(action)).field == 1


@pytest.mark.parametrize(
    ("targets", "segments", "expected"),
    [
        (MAX_TARGETS + 1, 1, (5, 0x26, 6)),
        (1, MAX_SEGMENTS + 1, (5, 0x26, 8)),
        (MAX_TARGETS + 1, MAX_SEGMENTS + 1, (5, 0x1A, 0)),
    ],
)
async def test_more_descriptors_than_the_limits(targets: int, segments: int, expected: tuple[int, int, int]) -> None:
    bench = Bench()
    (lu,) = bench.device.luns.values()
    data = listed([target(lu)] * targets, [segment(1, 0, 1)] * segments)
    assert codes_of(await copy(bench, data)) == expected


async def test_lists_that_are_cut_or_are_of_other_kinds() -> None:
    bench = Bench()
    (lu,) = bench.device.luns.values()
    whole = listed([target(lu)], [segment(1, 0, 1)])
    assert bench.done(copy_cdb(0)) == GOOD
    for length in (1, 15, MAX_LIST + 1):
        assert bench.codes(copy_cdb(length)) == (5, 0x1A, 0)
    for cut in (16 + 31, len(whole) - 1):
        assert codes_of(await copy(bench, whole[:cut])) == (5, 0x1A, 0)
    plan = bench.start(copy_cdb(len(whole)), data_out=whole[:20])
    assert codes_of(await plan.run()) == (5, 0x1A, 0)  # type: ignore[union-attr]  # an Async
    assert codes_of(await copy(bench, listed([target(lu, 0xE0)], [segment(1, 0, 1)]))) == (5, 0x26, 7)
    assert codes_of(await copy(bench, listed([target(lu)], [b"\x03\0\0\0"]))) == (5, 0x26, 9)
    assert codes_of(await copy(bench, listed([target(lu)], [b"\x02\0\0\x18"]))) == (5, 0x1A, 0)
    assert codes_of(await copy(bench, listed([target(lu)], [b"\x02\0\0\x10" + bytes(24)]))) == (5, 0x26, 0)
    inline = listed([target(lu)], [segment(1, 0, 1)], inline=4) + bytes(4)
    assert codes_of(await copy(bench, inline)) == (5, 0x26, 0)


@pytest.mark.parametrize(
    ("descriptor", "expected"),
    [
        (segment(1, 0, 1, destination=2), UNREACHABLE),
        (segment(1, 0, 1, source=2), UNREACHABLE),
        (segment(1, 0, 1, destination=1), NOT_REACHABLE),
        (segment(2, BLOCKS - 1, 0), ABORTED),
        (segment(2, 0, BLOCKS - 1), ABORTED),
        (segment(1, 2**64 - 1, 0), ABORTED),
    ],
)
async def test_segments_that_cannot_be(descriptor: bytes, expected: tuple[int, int, int]) -> None:
    bench = Bench()
    (lu,) = bench.device.luns.values()
    assert codes_of(await copy(bench, listed([target(lu), target(None)], [descriptor]))) == expected


async def test_units_that_may_not_be_used() -> None:
    bench = Bench(unit(), unit(MemoryBackend(SIZE, read_only=True), 1), unit(lun=2, removable=True), unit(lun=3))
    units = list(bench.device.luns.values())
    assert bench.done(bytes.fromhex("1b0000000200"), 2) == GOOD
    other = bench.attach("other")
    assert bench.done(bytes.fromhex("160000000000"), 3, nexus=other) == GOOD
    for number in (1, 2, 3):
        data = listed([target(units[0]), target(units[number])], [segment(1, 0, 1, destination=1)])
        assert codes_of(await copy(bench, data)) == NOT_REACHABLE
    assert await copy(bench, listed([target(units[0]), target(units[1])], [segment(1, 0, 1, source=1)])) == GOOD


@pytest.mark.parametrize("on", [Operation.READ, Operation.WRITE])
async def test_a_backend_that_fails(on: Operation) -> None:
    bench = Bench(unit(FaultFilter(MemoryBackend(SIZE), [Fault(on, Action.ERROR)])))
    (lu,) = bench.device.luns.values()
    assert codes_of(await copy(bench, listed([target(lu)], [segment(1, 0, 1)]))) == ABORTED


async def test_a_unit_that_an_initiator_may_not_see_is_no_source_for_it() -> None:
    bench = Bench(unit(), unit(lun=1))
    one, hidden = bench.device.luns.values()
    hidden.nexuses.discard(bench.nexus)  # as a LUN map has it
    data = listed([target(one), target(hidden)], [segment(1, 0, 1, source=1)])
    assert codes_of(await copy(bench, data)) == NOT_REACHABLE


async def test_an_aborted_copy_ends_soon() -> None:
    bench = Bench(unit(MemoryBackend(8 << 20)))
    (lu,) = bench.device.luns.values()
    data = listed([target(lu)], [segment(4 << 11, 0, 4 << 11)])
    task = ScsiTask(0, copy_cdb(len(data)), 1, 1, len(data), bench.nexus, data)
    plan = bench.device.start(task)
    assert isinstance(plan, Async)
    await lu.backend.writev(0, [memoryview(b"x" * (4 << 20))], False)
    running = asyncio.ensure_future(plan.run())
    await asyncio.sleep(0)
    task.aborted = True
    assert codes_of(await running) == ABORTED
    assert not any(await stored(lu, 7 << 11, 2048))
