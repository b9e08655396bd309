"""A backend in memory: zero-filled, lost when it is closed."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from typing import Final

from iser.errors import BackendError, UsageError
from target.backends.base import Backend, BackendCap, check_bounds

__all__ = ["MAX_MEMORY", "MemoryBackend"]

#: The largest memory backend: more is surely a slip of the pen.
MAX_MEMORY: Final = 1 << 40


class MemoryBackend(Backend):
    """``size`` bytes of anonymous memory; pages are taken from the system when they are first touched.

    Raises UsageError for a size that is not a positive multiple of ``block_size``, BackendError when there is not
    enough memory.
    """

    __slots__ = ("_map", "_view")

    def __init__(self, size: int, *, block_size: int = 512, read_only: bool = False, name: str = "memory") -> None:
        if not 0 < size <= MAX_MEMORY or size % block_size:
            raise UsageError(f"{name}: size {size} is not a multiple of {block_size} from {block_size} to {MAX_MEMORY}")
        self.block_size = block_size
        self.blocks = size // block_size
        self.read_only = read_only
        self.capabilities = BackendCap.VIEWS
        self.name = name
        try:
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise BackendError(f"{name}: the system has no {size} bytes of memory: {error.strerror}") from error
        whole = memoryview(self._map)
        self._view = whole.toreadonly() if read_only else whole

    def views(self, offset: int, length: int) -> Sequence[memoryview]:
        """One view of the bytes; see :meth:`Backend.views`."""
        check_bounds(self, offset, length)
        return (self._view[offset : offset + length],)

    async def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Copy to ``buffers``."""
        check_bounds(self, offset, sum(map(len, buffers)))
        for buffer in buffers:
            end = offset + len(buffer)
            buffer[:] = self._view[offset:end]
            offset = end

    async def writev(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        """Copy from ``buffers``; ``fua`` changes nothing, there is no cache."""
        check_bounds(self, offset, sum(map(len, buffers)), write=True)
        for buffer in buffers:
            end = offset + len(buffer)
            self._view[offset:end] = buffer
            offset = end

    async def flush(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Give the memory back; what a transfer still holds goes with its last view."""
        self._view.release()
        with contextlib.suppress(BufferError):
            self._map.close()
