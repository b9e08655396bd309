"""A backend in memory: zero-filled, lost when it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
from collections.abc import Callable, Sequence
from typing import Final

from iser.errors import BackendError, UsageError
from iser.rdma.pages import pages_replaced
from target.backends.base import Backend, BackendCap, Extent, check_bounds, merge_extents
from target.backends.pagemap import untouched_pages

__all__ = ["MAX_MEMORY", "MemoryBackend"]

#: The largest memory backend: more is surely a slip of the pen.
MAX_MEMORY: Final = 1 << 40
#: Bytes that are given back, and that are looked at, before others get their turn.
_TURN: Final = 64 << 20
_LOOK: Final = 16 << 20
#: The most bytes that one call of extents() looks at.
_MAX_LOOK: Final = 64 << 30
_PAGE: Final = mmap.PAGESIZE
#: Addresses kept free to grow into, in bytes, which cost nothing: this many times the size, and not less than that.
_ROOM_FACTOR: Final = 4
_LEAST_ROOM: Final = 16 << 30
_NORESERVE: Final = 0x4000  # not in the mmap module before Python 3.13; the same on every machine but MIPS and Alpha
_ZEROS: Final = bytes(_PAGE)
_ANONYMOUS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class MemoryBackend(Backend):
    """``size`` bytes of anonymous memory; pages are taken from the system when they are first touched.

    It grows in place, up to the room that was set aside for it; what is cut off, and grown again, is zeros.

    Raises UsageError for a size that is not a positive multiple of ``block_size``, BackendError when there is not
    enough memory.
    """

    __slots__ = ("_map", "_view", "_whole")

    def __init__(self, size: int, *, block_size: int = 512, read_only: bool = False, name: str = "memory") -> None:
        self.name = name
        self.block_size = block_size
        self._check_size(size)
        self.blocks = size // block_size
        self.read_only = read_only
        self.capabilities = BackendCap.VIEWS | BackendCap.DISCARD | BackendCap.ATOMIC
        if not read_only:
            self.capabilities |= BackendCap.RESIZE
        self._map = self._set_aside(size)
        self._map.madvise(mmap.MADV_DONTFORK)  # a page shared with a child would look as if it were nobody's
        self._whole = memoryview(self._map)
        self._view = self._whole.toreadonly() if read_only else self._whole[:size]

    def _check_size(self, size: int) -> None:
        if not 0 < size <= MAX_MEMORY or size % self.block_size:
            least = self.block_size
            raise UsageError(f"{self.name}: size {size} is not a multiple of {least} from {least} to {MAX_MEMORY}")

    def _set_aside(self, size: int) -> mmap.mmap:
        """Memory of ``size`` bytes with room to grow, or without where addresses are short."""
        exact = self._take(size)
        if self.read_only:
            return exact
        room = min(MAX_MEMORY, max(_ROOM_FACTOR * size, _LEAST_ROOM))
        try:
            roomy = mmap.mmap(-1, room, flags=_ANONYMOUS | _NORESERVE)
        except OSError:
            return exact
        exact.close()
        return roomy

    def _take(self, size: int) -> mmap.mmap:
        """Memory that the system could have, as it sees it now: addresses alone may be more than that."""
        try:
            return mmap.mmap(-1, size, flags=_ANONYMOUS)
        except OSError as error:
            raise BackendError(f"{self.name}: the system has no {size} bytes of memory: {error.strerror}") from error

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

    async def update(self, offset: int, length: int, change: Callable[[bytearray], bool], fua: bool) -> bool:
        """See :meth:`Backend.update`.  The loop does not turn meanwhile, so nobody comes between."""
        check_bounds(self, offset, length, write=True)
        data = bytearray(self._view[offset : offset + length])
        changed = change(data)
        if changed:
            self._view[offset : offset + length] = data
        return changed

    async def discard(self, offset: int, length: int) -> None:
        """See :meth:`Backend.discard`: whole pages go back to the system, the rest is zeroed."""
        check_bounds(self, offset, length, write=True)
        await self._give_back(offset, offset + length)

    async def _give_back(self, offset: int, end: int) -> None:
        first, last = min(offset + -offset % _PAGE, end), max(end - end % _PAGE, offset)
        if first >= last:
            self._whole[offset:end] = bytes(end - offset)
            return
        self._whole[offset:first] = bytes(first - offset)
        self._whole[last:end] = bytes(end - last)
        for start in range(first, last, _TURN):
            length = min(_TURN, last - start)
            self._map.madvise(mmap.MADV_DONTNEED, start, length)
            pages_replaced(self._map, start, length)
            await asyncio.sleep(0)

    async def resize(self, size: int | None) -> None:
        """See :meth:`Backend.resize`; memory does not change by itself, so None changes nothing."""
        before, after = self.size, self.size if size is None else size
        self._check_size(after)
        if self.read_only:
            raise UsageError(f"{self.name} is read-only; its size stays as it is")
        if after > len(self._whole):
            raise UsageError(f"{self.name} has room for {len(self._whole)} bytes, less than {after}; restart for more")
        self._take(after).close()
        if after > before:  # a transfer may have come after the cut of an earlier size
            await self._give_back(before, after)
        self.blocks = after // self.block_size
        self._view = self._whole[:after]
        if after < before:
            await self._give_back(after, before)

    async def extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """See :meth:`Backend.extents`.  A page that was only ever read is not mapped."""
        check_bounds(self, offset, length)
        extents: list[Extent] = []
        end = offset + min(length, _MAX_LOOK)
        while offset < end and len(extents) <= limit:
            first = offset - offset % _PAGE
            stop = min(first + _LOOK, end)
            self._add_extents(extents, first, offset, stop)
            offset = stop
            await asyncio.sleep(0)
        return extents[:limit]

    def _add_extents(self, extents: list[Extent], first: int, start: int, end: int) -> None:
        """Append what the pages from byte ``first`` on say of bytes ``start`` to ``end``."""
        pages = untouched_pages(self._address() + first, -(-(end - first) // _PAGE))
        if pages[0] is not None and pages.count(pages[0]) == len(pages):
            merge_extents(extents, end - start, not pages[0])
            return
        for page, untouched in enumerate(pages):
            low = first + page * _PAGE
            # None is a page that is there, and perhaps the system's page of zeros.
            zero = untouched or (untouched is None and self._view[low : low + _PAGE].tobytes() == _ZEROS)
            merge_extents(extents, min(low + _PAGE, end) - max(low, start), not zero)

    def _address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    async def flush(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Give the memory back; what a transfer still holds goes with its last view."""
        self._view.release()
        self._whole.release()
        with contextlib.suppress(BufferError):
            self._map.close()
