"""The interface of a storage backend: a run of blocks that can be read, written and flushed.

Offsets and lengths are bytes.  A backend never blocks the event loop.  Requests may overlap in time; the order of
overlapping ones is undefined, as SCSI has it for simple tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntFlag

from iser.errors import UsageError

__all__ = ["Backend", "BackendCap", "check_bounds"]


class BackendCap(IntFlag):
    """What a backend is able to do beyond plain reads and writes."""

    NONE = 0
    VIEWS = 1  # views() gives the bytes themselves
    WRITE_CACHE = 2  # a finished write may be lost until flush() or FUA


class Backend(ABC):
    """One store of ``blocks`` times ``block_size`` bytes."""

    __slots__ = ("block_size", "blocks", "capabilities", "name", "read_only")

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

    def views(self, offset: int, length: int) -> Sequence[memoryview] | None:
        """The stored bytes themselves, writable unless read-only; None where the backend has no such thing.

        They may be the source of RDMA Writes and the sink of RDMA Reads.  Raises UsageError out of bounds.
        """
        del offset, length
        return None

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


def check_bounds(backend: Backend, offset: int, length: int, *, write: bool = False) -> None:
    """Raise UsageError unless ``length`` bytes from ``offset`` on lie in the backend, and may be written to."""
    if offset < 0 or length < 0 or offset + length > backend.size:
        raise UsageError(f"{backend.name}: {length} bytes at {offset} are not within its {backend.size} bytes")
    if write and backend.read_only:
        raise UsageError(f"{backend.name} is read-only; open it for writing first")
