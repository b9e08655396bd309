"""The base of backends whose store is read and written in whole sectors only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from iser.sg import scatter
from target.backends.base import Backend, check_bounds

__all__ = ["AlignedBackend", "pieces", "targets"]


class AlignedBackend(Backend):
    """A backend that implements :meth:`_read` and :meth:`_store` for offsets and lengths in multiples of ``sector``.

    What is not aligned is read into a copy, and written by reading, changing and writing whole sectors.
    """

    __slots__ = ("sector",)

    #: Bytes; a power of two, and a divisor of the block size, so that no SCSI command needs the detour.
    sector: int

    @abstractmethod
    async def _read(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """:meth:`readv` of whole sectors."""

    @abstractmethod
    async def _store(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        """:meth:`writev` of whole sectors, by who holds the range."""

    async def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """See :meth:`Backend.readv`."""
        length = sum(map(len, buffers))
        check_bounds(self, offset, length)
        if not (offset | length) & self.sector - 1:
            await self._read(offset, buffers)
            return
        first, last = self._round(offset, length)
        whole = memoryview(bytearray(last - first))
        await self._read(first, [whole])
        scatter(whole[offset - first : offset - first + length], [buffer for buffer in buffers if len(buffer)])

    async def writev(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        """See :meth:`Backend.writev`."""
        length = sum(map(len, buffers))
        check_bounds(self, offset, length, write=True)
        if not length:
            return
        if (offset | length) & self.sector - 1:
            data = b"".join(buffers)
            await self.update(offset, length, lambda old: _replace(old, data), fua)
            return
        hold = await self.ranges.acquire(offset, offset + length, exclusive=False)
        try:
            await self._store(offset, buffers, fua)
        finally:
            self.ranges.release(hold)

    async def update(self, offset: int, length: int, change: Callable[[bytearray], bool], fua: bool) -> bool:
        """See :meth:`Backend.update`; the sectors at both ends are held as a whole."""
        check_bounds(self, offset, length, write=True)
        first, last = self._round(offset, length)

        def change_part(whole: bytearray) -> bool:
            part = whole[offset - first : offset - first + length]
            changed = change(part)
            whole[offset - first : offset - first + length] = part
            return changed

        return await super().update(first, last - first, change_part, fua)

    def _round(self, offset: int, length: int) -> tuple[int, int]:
        """First and last byte of the sectors that hold ``length`` bytes."""
        end = offset + length
        return offset - offset % self.sector, end + -end % self.sector


def _replace(old: bytearray, new: bytes) -> bool:
    old[:] = new
    return True


def pieces(offset: int, buffers: Sequence[memoryview], most: int) -> list[tuple[int, memoryview]]:
    """(offset, one run of bytes) for each request of at most ``most`` bytes; ``buffers`` that are several get copied.

    Only for data to be written: what is read into a copy does not come back.
    """
    run = buffers[0] if len(buffers) == 1 else memoryview(b"".join(buffers))
    return [(offset + start, run[start : start + most]) for start in range(0, len(run), most)]


def targets(offset: int, buffers: Sequence[memoryview], most: int) -> list[tuple[int, memoryview]]:
    """(offset, where to read to) for requests of at most ``most`` bytes, none across two buffers."""
    found: list[tuple[int, memoryview]] = []
    for buffer in buffers:
        found += [(offset + start, buffer[start : start + most]) for start in range(0, len(buffer), most)]
        offset += len(buffer)
    return found
