"""Bounds of a backend."""

from __future__ import annotations

import pytest

from iser.errors import UsageError
from target.backends.base import check_bounds
from target.backends.memory import MemoryBackend


async def test_bounds_reach_to_the_last_byte_and_no_further() -> None:
    backend = MemoryBackend(4096)
    check_bounds(backend, 0, 4096)
    check_bounds(backend, 4096, 0)
    with pytest.raises(UsageError, match="1 bytes at 4096 are not within its 4096 bytes"):
        check_bounds(backend, 4096, 1)
    await backend.close()


async def test_a_read_only_backend_is_not_written() -> None:
    backend = MemoryBackend(4096, read_only=True)
    with pytest.raises(UsageError, match="read-only"):
        await backend.writev(0, [memoryview(b"x")], fua=False)
    await backend.readv(0, [memoryview(bytearray(4096))])
    await backend.close()


async def test_nothing_is_done_at_once_unless_a_backend_says_so() -> None:
    backend = MemoryBackend(4096)
    assert not backend.readv_now(0, [memoryview(bytearray(512))])
    assert not backend.writev_now(0, [bytes(512)], False)
    await backend.close()
