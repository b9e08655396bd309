"""A filter that makes another backend fail on purpose, to see what its users do then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from iser.errors import BackendError, UsageError
from target.backends.base import Backend, BackendCap, Extent

__all__ = ["Action", "Fault", "FaultFilter", "Operation"]


class Operation(StrEnum):
    """What is counted."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"


class Action(StrEnum):
    """What happens: an I/O error, a pause, a full store, or an I/O error after half of the bytes."""

    ERROR = "error"
    DELAY = "delay"
    FULL = "full"
    SHORT = "short"


@dataclass(frozen=True, slots=True)
class Fault:
    """From operation number ``nth`` of its kind on (the first is 1), for ``count`` operations, do ``action``.

    ``seconds`` is how long DELAY pauses before the operation goes on.
    """

    on: Operation
    action: Action
    nth: int = 1
    count: int = 1
    seconds: float = 0.0


class FaultFilter(Backend):
    """``inner`` with ``faults``; of several that apply to one operation the first one acts.

    It has no views, so that all data goes through reads and writes.
    """

    __slots__ = ("_done", "_faults", "inner")

    def __init__(self, inner: Backend, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if fault.nth < 1 or fault.count < 1 or fault.seconds < 0:
                raise UsageError(f"{fault}: nth and count start at 1, seconds at 0")
        self.inner = inner
        self.block_size = inner.block_size
        self.blocks = inner.blocks
        self.read_only = inner.read_only
        self.capabilities = inner.capabilities & ~(BackendCap.VIEWS | BackendCap.ATOMIC)
        if any(fault.on is Operation.FLUSH for fault in faults):
            self.capabilities |= BackendCap.WRITE_CACHE
        self.name = inner.name
        self._faults = tuple(faults)
        self._done = dict.fromkeys(Operation, 0)

    async def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """See :meth:`Backend.readv`."""
        if await self._short(Operation.READ, offset):
            half = _half(buffers)
            await self.inner.readv(offset, half)
            raise self._error(Operation.READ, "I/O error after half of the bytes", offset + sum(map(len, half)))
        await self.inner.readv(offset, buffers)

    async def writev(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        """See :meth:`Backend.writev`."""
        hold = await self.ranges.acquire(offset, offset + sum(map(len, buffers)), exclusive=False)
        try:
            await self._store(offset, buffers, fua)
        finally:
            self.ranges.release(hold)

    async def _store(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        if await self._short(Operation.WRITE, offset):
            half = _half(buffers)
            await self.inner.writev(offset, half, fua)
            raise self._error(Operation.WRITE, "I/O error after half of the bytes", offset + sum(map(len, half)))
        await self.inner.writev(offset, buffers, fua)

    async def flush(self) -> None:
        """See :meth:`Backend.flush`."""
        if await self._short(Operation.FLUSH):
            raise self._error(Operation.FLUSH, "I/O error")
        await self.inner.flush()

    async def discard(self, offset: int, length: int) -> None:
        """See :meth:`Backend.discard`.  It counts as a write."""
        if await self._short(Operation.WRITE):
            raise self._error(Operation.WRITE, "I/O error")
        await self.inner.discard(offset, length)

    async def extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """See :meth:`Backend.extents`."""
        return await self.inner.extents(offset, length, limit)

    async def resize(self, size: int | None) -> None:
        """See :meth:`Backend.resize`."""
        await self.inner.resize(size)
        self.blocks = self.inner.blocks

    async def close(self) -> None:
        """Close the inner backend."""
        await self.inner.close()

    async def _short(self, operation: Operation, offset: int | None = None) -> bool:
        """Count ``operation`` and do its fault, if it has one; True when half of the bytes shall be moved yet."""
        self._done[operation] += 1
        number = self._done[operation]
        fault = next((f for f in self._faults if f.on is operation and f.nth <= number < f.nth + f.count), None)
        if fault is None:
            return False
        if fault.action is Action.ERROR:
            raise self._error(operation, "I/O error", offset)
        if fault.action is Action.FULL:
            raise self._error(operation, "no space left", offset, space=True)
        if fault.action is Action.DELAY:
            await asyncio.sleep(fault.seconds)
        return fault.action is Action.SHORT

    def _error(
        self, operation: Operation, what: str, offset: int | None = None, *, space: bool = False
    ) -> BackendError:
        text = f"{self.name}: {what} (made by the configured fault of {operation} {self._done[operation]})"
        return BackendError(text, space=space, offset=offset)


def _half(buffers: Sequence[memoryview]) -> Sequence[memoryview]:
    """The first half of the bytes."""
    left = sum(map(len, buffers)) // 2
    half = []
    for buffer in buffers:
        half.append(buffer[:left])
        left -= len(half[-1])
    return half
