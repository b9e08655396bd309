"""The checker of backends: what every backend must do, and that it finds those which do not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from iser.errors import BackendError, UsageError
from target.backends.base import Backend, BackendCap, Extent, Source
from target.backends.conformance import MIN_SIZE, check_backend
from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend

SIZE = 1 << 20
KINDS = ["memory", "file", "file in memory", "filtered memory", "filtered file"]


@pytest.fixture(params=[(kind, block_size) for kind in KINDS for block_size in (512, 4096)], ids=str)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    kind, block_size = request.param
    made: Backend = MemoryBackend(SIZE, block_size=block_size)
    if kind == "file in memory":
        file = os.memfd_create("disk")
        made = FileBackend(f"/proc/self/fd/{file}", SIZE, block_size=block_size)
        os.close(file)
    elif kind.endswith("file"):
        made = FileBackend(tmp_path / "disk", SIZE, block_size=block_size)
    yield FaultFilter(made, ()) if kind.startswith("filtered") else made
    await made.close()


async def test_a_backend_keeps_the_contract(backend: Backend) -> None:
    assert await check_backend(backend) == []


async def test_a_new_backend_reads_zeros(backend: Backend) -> None:
    buffer = memoryview(bytearray(b"\xff" * SIZE))
    await backend.readv(0, [buffer])
    assert bytes(buffer) == bytes(SIZE)


async def test_more_buffers_than_one_system_call_takes(backend: Backend) -> None:
    data = bytes(range(256)) * 12
    await backend.writev(512, [memoryview(data)[i : i + 1] for i in range(3000)], fua=False)
    buffers = [memoryview(bytearray(1)) for _ in range(3000)]
    await backend.readv(512, buffers)
    assert b"".join(buffers) == data[:3000]


async def test_close_is_idempotent(backend: Backend) -> None:
    await backend.close()
    await backend.close()


class Broken(MemoryBackend):
    """A store with one fault; each below is found by the check of that name."""

    __slots__ = ()


class LosesBytes(Broken):
    """vectors"""

    async def writev(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        await super().writev(offset, buffers[:2], fua)


class ForgetsAtOnce(Broken):
    """at_once"""

    def writev_now(self, offset: int, buffers: Sequence[Source], fua: bool) -> bool:
        return True


class NoBounds(Broken):
    """bounds"""

    async def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        try:
            await super().readv(offset, buffers)
        except UsageError:
            return


class NoViews(Broken):
    """views"""

    def views(self, offset: int, length: int) -> Sequence[memoryview]:
        return None  # type: ignore[return-value]  # the fault that is to be found


class LosesUpdates(Broken):
    """updates"""

    async def update(self, offset: int, length: int, change: Callable[[bytearray], bool], fua: bool) -> bool:
        return True


class KeepsDiscarded(Broken):
    """discards"""

    async def discard(self, offset: int, length: int) -> None:
        return


class LiesAboutExtents(Broken):
    """extents"""

    async def extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        return [Extent(length, False)]


class CannotFlush(Broken):
    """flushes"""

    async def flush(self) -> None:
        raise BackendError("cannot flush")


class HasNoName(Broken):
    """attributes"""

    def __init__(self, size: int) -> None:
        super().__init__(size, name="")


@pytest.mark.parametrize("broken", Broken.__subclasses__())
async def test_what_is_broken_is_found_and_named(broken: type[Broken]) -> None:
    backend = broken(SIZE)
    failures = await check_backend(backend)
    assert any(f": {broken.__doc__}: " in failure for failure in failures)
    await backend.close()


async def test_faults_are_failures_and_no_exceptions() -> None:
    backend = FaultFilter(MemoryBackend(SIZE), [Fault(Operation.WRITE, Action.FULL)])
    (failure,) = await check_backend(backend)
    assert "no space left" in failure
    await backend.close()


async def test_what_cannot_be_checked_is_refused() -> None:
    for backend in (MemoryBackend(MIN_SIZE // 2), MemoryBackend(SIZE, read_only=True)):
        with pytest.raises(UsageError, match="may overwrite"):
            await check_backend(backend)
        await backend.close()


async def test_plain_backends_have_no_more_than_they_declare() -> None:
    backend = MemoryBackend(SIZE, read_only=True)
    assert BackendCap.RESIZE not in backend.capabilities
    assert await Backend.extents(backend, 0, 1024, 5) == [(1024, True)]
    with pytest.raises(UsageError, match="cannot give space back"):
        await Backend.discard(backend, 0, 512)
    with pytest.raises(UsageError, match="read-only"):
        await Backend.update(backend, 0, 512, lambda _: True, False)
    await backend.close()
