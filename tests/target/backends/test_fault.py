"""The fault filter does what it was told, when it was told."""

from __future__ import annotations

import asyncio
import time

import pytest

from iser.errors import BackendError, UsageError
from target.backends.base import BackendCap
from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.backends.memory import MemoryBackend

SIZE = 4096


def filtered(*faults: Fault) -> FaultFilter:
    return FaultFilter(MemoryBackend(4096), faults)


async def test_errors_from_the_nth_operation_for_count() -> None:
    backend = filtered(Fault(Operation.READ, Action.ERROR, nth=2, count=2))
    buffers = [memoryview(bytearray(512))]
    await backend.readv(0, buffers)
    for number in (2, 3):
        with pytest.raises(BackendError, match=f"fault of read {number}") as caught:
            await backend.readv(0, buffers)
        assert (caught.value.medium, caught.value.space) == (True, False)
    await backend.readv(0, buffers)
    await backend.writev(0, [memoryview(bytes(512))], fua=False)


async def test_full_writes_nothing() -> None:
    backend = filtered(Fault(Operation.WRITE, Action.FULL))
    with pytest.raises(BackendError, match="no space left") as caught:
        await backend.writev(0, [memoryview(b"x" * 512)], fua=False)
    assert caught.value.space
    seen = bytearray(512)
    await backend.readv(0, [memoryview(seen)])
    assert seen == bytes(512)


async def test_short_moves_half_then_fails() -> None:
    backend = filtered(Fault(Operation.WRITE, Action.SHORT), Fault(Operation.READ, Action.SHORT, nth=2))
    with pytest.raises(BackendError, match="half of the bytes"):
        await backend.writev(0, [memoryview(b"a" * 100), memoryview(b"b" * 412)], fua=False)
    seen = bytearray(512)
    await backend.readv(0, [memoryview(seen)])
    assert seen == b"a" * 100 + b"b" * 156 + bytes(256)
    part = bytearray(b"?" * 4)
    with pytest.raises(BackendError, match="half of the bytes"):
        await backend.readv(0, [memoryview(part)])
    assert part == b"aa??"


async def test_delay_pauses_and_lets_others_go_on() -> None:
    backend = filtered(Fault(Operation.READ, Action.DELAY, seconds=0.05))
    start = time.monotonic()
    slow = asyncio.create_task(backend.readv(0, [memoryview(bytearray(512))]))
    await asyncio.sleep(0)
    await backend.readv(0, [memoryview(bytearray(512))])
    assert not slow.done()
    await slow
    assert time.monotonic() - start >= 0.05


async def test_a_flush_that_fails_is_asked_for() -> None:
    """A backend with nothing to flush gets a write cache, or nobody would ever call flush."""
    backend = filtered(Fault(Operation.FLUSH, Action.ERROR))
    assert backend.capabilities & BackendCap.WRITE_CACHE
    with pytest.raises(BackendError, match="flush 1"):
        await backend.flush()
    await backend.flush()


async def test_filters_stack_and_hide_views() -> None:
    inner = filtered(Fault(Operation.READ, Action.ERROR, nth=2))
    backend = FaultFilter(inner, [Fault(Operation.READ, Action.ERROR, nth=1)])
    assert backend.views(0, 512) is None
    with pytest.raises(BackendError, match="read 1"):
        await backend.readv(0, [])
    await backend.readv(0, [])
    with pytest.raises(BackendError, match="read 2"):
        await backend.readv(0, [])


@pytest.mark.parametrize("bad", [{"nth": 0}, {"count": 0}, {"seconds": -1.0}])
def test_senseless_faults_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="start at"):
        filtered(Fault(Operation.READ, Action.ERROR, **bad))  # type: ignore[arg-type]  # the point of the test


async def test_discards_count_as_writes_and_the_rest_goes_through() -> None:
    backend = FaultFilter(MemoryBackend(SIZE), [Fault(Operation.WRITE, Action.ERROR, nth=2)])
    await backend.discard(0, 4096)
    with pytest.raises(BackendError, match="write 2"):
        await backend.discard(0, 4096)
    assert await backend.extents(0, SIZE, 3) == [(SIZE, False)]
    with pytest.raises(UsageError, match="is not a multiple"):
        await backend.resize(1 + 2 * SIZE)
    await backend.close()


async def test_an_update_meets_the_faults_of_its_read_and_its_write() -> None:
    backend = FaultFilter(
        MemoryBackend(SIZE), [Fault(Operation.READ, Action.ERROR), Fault(Operation.WRITE, Action.FULL)]
    )
    for what in ("read 1", "write 1"):
        with pytest.raises(BackendError, match=what):
            await backend.update(0, 512, lambda _: True, False)
    assert await backend.update(0, 512, lambda _: True, False)
    await backend.close()
