"""The memory backend: views are the store itself."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from iser.errors import BackendError, UsageError
from target.backends import pagemap
from target.backends.memory import MAX_MEMORY, MemoryBackend


async def test_a_view_is_the_memory_and_no_copy() -> None:
    backend = MemoryBackend(1 << 16, block_size=4096)
    (view,) = backend.views(4096, 512)
    view[:] = b"v" * 512
    seen = bytearray(512)
    await backend.readv(4096, [memoryview(seen)])
    assert seen == b"v" * 512
    await backend.writev(4096, [memoryview(b"w" * 512)], fua=True)
    assert view == b"w" * 512
    view.release()
    await backend.close()


async def test_views_of_a_read_only_one_cannot_be_written() -> None:
    backend = MemoryBackend(4096, read_only=True)
    (view,) = backend.views(0, 4096)
    assert view.readonly
    view.release()
    await backend.close()


async def test_close_waits_for_no_view_that_a_transfer_holds() -> None:
    backend = MemoryBackend(4096)
    (view,) = backend.views(0, 512)
    await backend.close()
    view[:] = b"x" * 512
    assert bytes(view) == b"x" * 512


def test_a_size_that_the_system_refuses_is_named() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 38, hard))
    try:
        with pytest.raises(BackendError, match="the system has no 1099511627776 bytes of memory"):
            MemoryBackend(1 << 40)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("size", [0, -512, 511, 513, MAX_MEMORY + 512])
def test_sizes_that_cannot_be_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="size"):
        MemoryBackend(size)


async def test_a_discard_gives_pages_back_and_reading_takes_none() -> None:
    backend = MemoryBackend(1 << 20)
    assert await backend.extents(0, 1 << 20, 9) == [(1 << 20, False)]
    await backend.writev(0, [memoryview(b"x" * (1 << 20))], False)
    assert await backend.extents(0, 1 << 20, 9) == [(1 << 20, True)]
    await backend.discard(4096 + 512, 3 * 4096)
    seen = bytearray(1 << 20)
    await backend.readv(0, [memoryview(seen)])
    assert seen == b"x" * 4608 + bytes(3 * 4096) + b"x" * ((1 << 20) - 4608 - 3 * 4096)
    assert await backend.extents(0, 1 << 20, 9) == [(8192, True), (8192, False), ((1 << 20) - 16384, True)]
    assert await backend.extents(8192 + 512, 512, 9) == [(512, False)]
    assert await backend.extents(0, 1 << 20, 2) == [(8192, True), (8192, False)]
    await backend.discard(512, 512)
    assert bytes(backend.views(0, 1536)[0]) == b"x" * 512 + bytes(512) + b"x" * 512
    await backend.close()


async def test_without_the_kernels_table_all_is_mapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pagemap, "_PAGEMAP", tmp_path / "missing")
    backend = MemoryBackend(1 << 20)
    assert await backend.extents(0, 1 << 20, 9) == [(1 << 20, True)]
    await backend.close()


async def test_it_grows_and_shrinks_in_place_and_never_shows_what_was_cut_off() -> None:
    backend = MemoryBackend(1 << 20)
    (held,) = backend.views(0, 1 << 20)  # as a transfer does
    held[:] = b"x" * (1 << 20)
    await backend.resize(2 << 20)
    assert backend.blocks == 4096
    assert bytes(backend.views(0, 2 << 20)[0]) == b"x" * (1 << 20) + bytes(1 << 20)
    await backend.resize(4096 + 512)
    with pytest.raises(UsageError, match="not within its 4608 bytes"):
        backend.views(4608, 512)
    held[8192:8196] = b"late"
    await backend.resize(1 << 20)
    assert bytes(backend.views(0, 1 << 20)[0]) == b"x" * 4608 + bytes((1 << 20) - 4608)
    await backend.resize(None)
    assert backend.size == 1 << 20
    held.release()
    await backend.close()


async def test_sizes_that_it_cannot_have() -> None:
    backend = MemoryBackend(4096)
    for size in (0, 511, MAX_MEMORY + 512):
        with pytest.raises(UsageError, match="is not a multiple"):
            await backend.resize(size)
    with pytest.raises(UsageError, match="has room for 17179869184 bytes, less than"):
        await backend.resize((16 << 30) + 512)
    assert backend.size == 4096
    await backend.close()
    fixed = MemoryBackend(4096, read_only=True)
    with pytest.raises(UsageError, match="read-only"):
        await fixed.resize(8192)
    await fixed.close()


def _addresses() -> int:
    """Bytes of addresses that the process has taken."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


async def test_where_addresses_are_short_there_is_no_room_to_grow() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_addresses() + (8 << 30), hard))
    try:
        backend = MemoryBackend(1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    with pytest.raises(UsageError, match="has room for 1048576 bytes"):
        await backend.resize(2 << 20)
    await backend.resize(4096)
    await backend.resize(1 << 20)
    await backend.close()
