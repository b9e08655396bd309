"""What every backend must do, run on each of them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from iser.errors import UsageError
from target.backends.base import Backend, BackendCap
from target.backends.fault import FaultFilter
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend

SIZE = 1 << 20


@pytest.fixture(params=["memory", "file", "filtered memory", "filtered file"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    kind = request.param
    made: Backend = FileBackend(tmp_path / "disk", SIZE) if kind.endswith("file") else MemoryBackend(SIZE)
    if kind.startswith("filtered"):
        made = FaultFilter(made, ())
    yield made
    await made.close()


def views(*lengths: int) -> list[memoryview]:
    return [memoryview(bytearray(length)) for length in lengths]


async def test_attributes_agree(backend: Backend) -> None:
    assert (backend.block_size, backend.blocks, backend.size) == (512, SIZE // 512, SIZE)
    assert not backend.read_only
    assert backend.name
    assert (backend.views(0, 512) is not None) == bool(backend.capabilities & BackendCap.VIEWS)


async def test_new_backend_reads_zeros(backend: Backend) -> None:
    buffers = [memoryview(bytearray(b"\xff" * SIZE))]
    await backend.readv(0, buffers)
    assert bytes(buffers[0]) == bytes(SIZE)


async def test_random_vectors_match_a_plain_array(backend: Backend) -> None:
    """Writes and reads of any offset and any list of buffers, empty ones too, against plain bytes."""
    rng = random.Random(7145)
    model = bytearray(SIZE)
    for turn in range(60):
        lengths = [rng.choice([0, 1, 511, 512, 4096, rng.randrange(40000)]) for _ in range(rng.randrange(6))]
        total = sum(lengths)
        offset = rng.randrange(SIZE - total + 1)
        buffers = [memoryview(bytearray(rng.randbytes(length))) for length in lengths]
        if turn % 2:
            await backend.writev(offset, buffers, fua=turn % 3 == 0)
            model[offset : offset + total] = b"".join(buffers)
        else:
            await backend.readv(offset, buffers)
            assert b"".join(buffers) == model[offset : offset + total]
    await backend.flush()
    whole = views(SIZE)
    await backend.readv(0, whole)
    assert whole[0] == model


async def test_more_buffers_than_one_system_call_takes(backend: Backend) -> None:
    data = random.Random(1).randbytes(3000)
    await backend.writev(512, [memoryview(data)[i : i + 1] for i in range(3000)], fua=False)
    buffers = views(*[1] * 3000)
    await backend.readv(512, buffers)
    assert b"".join(buffers) == data


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (SIZE - 511, 512), (-1, 1), (0, SIZE + 1)])
async def test_out_of_bounds_is_refused_and_changes_nothing(backend: Backend, offset: int, length: int) -> None:
    with pytest.raises(UsageError, match="not within"):
        await backend.readv(offset, views(length))
    with pytest.raises(UsageError, match="not within"):
        await backend.writev(offset, [memoryview(b"\xff" * length)], fua=False)
    if backend.capabilities & BackendCap.VIEWS:
        with pytest.raises(UsageError, match="not within"):
            backend.views(offset, length)
    whole = views(SIZE)
    await backend.readv(0, whole)
    assert bytes(whole[0]) == bytes(SIZE)


async def test_close_is_idempotent(backend: Backend) -> None:
    await backend.close()
    await backend.close()
