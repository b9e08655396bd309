"""The interface of a storage backend: a run of blocks that can be read, written and flushed.

Offsets and lengths are bytes.  A backend never blocks the event loop.  Requests may overlap in time; the order of
overlapping ones is undefined, as SCSI has it for simple tasks.

A new backend writes five methods: ``readv``, ``writev``, ``flush``, ``close``, and ``views`` if it has its bytes in
memory.  What else it can do it declares in ``capabilities``, and overrides the method that goes with the flag.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntFlag
from typing import NamedTuple

from iser.errors import UsageError
from target.backends.ranges import RangeLock

__all__ = ["Backend", "BackendCap", "Extent", "Source", "check_bounds", "merge_extents"]

Source = memoryview | bytes | bytearray  # where bytes to be written are


class BackendCap(IntFlag):
    """What a backend is able to do beyond plain reads and writes."""

    NONE = 0
    VIEWS = 1  # views() gives the bytes themselves
    WRITE_CACHE = 2  # a finished write may be lost until flush() or FUA
    DISCARD = 4  # extents() tells where there is no space behind the blocks, and discard() makes it so
    RESIZE = 8  # resize() works
    ATOMIC = 16  # update() leaves all of its bytes or none, whatever happens


class Extent(NamedTuple):
    """``length`` bytes that are ``mapped`` to storage, or are not and read as zeros."""

    length: int
    mapped: bool


class Backend(ABC):
    """One store of ``blocks`` times ``block_size`` bytes."""

    __slots__ = ("_ranges", "block_size", "blocks", "capabilities", "name", "read_only")

    block_size: int
    blocks: int
    read_only: bool
    capabilities: BackendCap
    #: Names the store in messages, e.g. its path.
    name: str

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.block_size * self.blocks

    @property
    def ranges(self) -> RangeLock:
        """Which bytes are being written: :meth:`update` excludes writes of its bytes by this."""
        try:
            return self._ranges
        except AttributeError:
            self._ranges: RangeLock = RangeLock()
            return self._ranges

    def views(self, offset: int, length: int) -> Sequence[memoryview] | None:
        """The stored bytes themselves, writable unless read-only; None where the backend has no such thing.

        They may be the source of RDMA Writes and the sink of RDMA Reads.  Raises UsageError out of bounds.
        """
        del offset, length
        return None

    def lend(self, offset: int, length: int) -> Sequence[memoryview] | None:
        """The stored bytes themselves, for who passes them on to the kernel without looking at them: that could kill.

        None where they are not to be had so, now or ever; that is for :meth:`readv_now`.
        """
        del offset, length
        return None

    def readv_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """As :meth:`readv`, where that takes no waiting.  False where it would, or fails: that is for :meth:`readv`."""
        del offset, buffers
        return False

    def writev_now(self, offset: int, buffers: Sequence[Source], fua: bool) -> bool:
        """As :meth:`writev`, where that takes no waiting.  False where it would, or fails: that is for :meth:`writev`.

        Some of the bytes may have been written then.
        """
        del offset, buffers, fua
        return False

    @abstractmethod
    async def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers`` from ``offset`` on.  Raises BackendError, or UsageError out of bounds."""

    @abstractmethod
    async def writev(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        """Write ``buffers`` from ``offset`` on; with ``fua`` they are on stable storage on return.

        Raises BackendError (some of the bytes may have been written), or UsageError out of bounds or when read-only.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Put every write that has finished on stable storage.  Raises BackendError."""

    @abstractmethod
    async def close(self) -> None:
        """Wait for what is running, flush and free.  Idempotent.  Raises BackendError when the flush fails."""

    async def update(self, offset: int, length: int, change: Callable[[bytearray], bool], fua: bool) -> bool:
        """Read ``length`` bytes, let ``change`` alter them, and write them back if it returns True.

        No other write or update of these bytes comes between.  Returns what ``change`` returned.  Raises as
        :meth:`readv` and :meth:`writev`, and what ``change`` raises.
        """
        check_bounds(self, offset, length, write=True)
        hold = await self.ranges.acquire(offset, offset + length, exclusive=True)
        try:
            data = bytearray(length)
            await self.readv(offset, [memoryview(data)])
            changed = change(data)
            if changed:
                await self._store(offset, [memoryview(data)], fua)
            return changed
        finally:
            self.ranges.release(hold)

    async def _store(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        """:meth:`writev` by who holds the range; to be overridden where ``writev`` takes it itself."""
        await self.writev(offset, buffers, fua)

    async def discard(self, offset: int, length: int) -> None:
        """Give back the space of ``length`` bytes as far as the store's own blocks allow; they all read as zeros.

        Raises BackendError, or UsageError out of bounds, when read-only, and without BackendCap.DISCARD.
        """
        del offset, length
        raise UsageError(f"{self.name} cannot give space back")

    async def extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """Which of ``length`` bytes from ``offset`` on are mapped: neighbours differ, at most ``limit`` of them.

        They may cover fewer bytes than asked, but one block at least.  All extents are whole blocks; a block that is
        mapped in part is mapped.  Raises as :meth:`readv`.
        """
        del limit
        check_bounds(self, offset, length)
        return [Extent(length, True)]

    async def resize(self, size: int | None) -> None:
        """Grow or shrink to ``size`` bytes; None takes over what the store has become by itself.

        ``blocks`` has changed on return.  Raises BackendError, or UsageError for a size that cannot be.
        """
        del size
        raise UsageError(f"{self.name} cannot be resized while it is served")


def check_bounds(backend: Backend, offset: int, length: int, *, write: bool = False) -> None:
    """Raise UsageError unless ``length`` bytes from ``offset`` on lie in the backend, and may be written to."""
    if offset < 0 or length < 0 or offset + length > backend.size:
        raise UsageError(f"{backend.name}: {length} bytes at {offset} are not within its {backend.size} bytes")
    if write and backend.read_only:
        raise UsageError(f"{backend.name} is read-only; open it for writing first")


def merge_extents(extents: list[Extent], length: int, mapped: bool) -> None:
    """Append ``length`` bytes to ``extents``, or lengthen the last one if it is alike."""
    if not length:
        return
    if extents and extents[-1].mapped == mapped:
        extents[-1] = Extent(extents[-1].length + length, mapped)
    else:
        extents.append(Extent(length, mapped))
