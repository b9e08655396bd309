"""Bounded memory for data on its way between the network and a backend that has none of its own."""

from __future__ import annotations

import asyncio
import mmap
from collections import deque
from typing import Final

from iser.sg.pool import size_class

__all__ = ["DEFAULT_STAGING", "StagingPool"]

DEFAULT_STAGING: Final = 64 << 20  # bytes in use at once, over all sessions
MAX_IDLE: Final = 32 << 20  # bytes kept for the next command


class StagingPool:
    """Page-aligned buffers by power-of-two size, ``limit`` bytes in use at once; who comes late waits in order.

    One buffer larger than ``limit`` is given out when nothing else is in use.
    """

    def __init__(self, limit: int = DEFAULT_STAGING) -> None:
        self.limit = limit
        self._free: dict[int, list[memoryview]] = {}
        self._idle = 0
        self._waiting: deque[tuple[int, asyncio.Future[memoryview]]] = deque()
        self.in_use = 0
        self.high_water = 0

    @property
    def waiting(self) -> int:
        """How many wait for a buffer."""
        return len(self._waiting)

    def try_take(self, length: int) -> memoryview | None:
        """At least ``length`` bytes, or None when one would have to wait."""
        size = size_class(length)
        if self._waiting or (self.in_use and self.in_use + size > self.limit):
            return None
        return self._grant(size)

    async def take(self, length: int) -> memoryview:
        """At least ``length`` bytes, as soon as there are; give the very same object back."""
        memory = self.try_take(length)
        if memory is not None:
            return memory
        future: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        entry = (size_class(length), future)
        self._waiting.append(entry)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(future.result())
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._serve()
            raise

    def give(self, memory: memoryview) -> None:
        """Take a buffer back."""
        size = len(memory)
        self.in_use -= size
        if self._idle + size <= MAX_IDLE:
            self._free.setdefault(size, []).append(memory)
            self._idle += size
        self._serve()

    def _serve(self) -> None:
        """Give those who wait what there is, in order."""
        while self._waiting:
            wanted, future = self._waiting[0]
            if self.in_use and self.in_use + wanted > self.limit:
                return
            self._waiting.popleft()
            if not future.done():
                future.set_result(self._grant(wanted))

    def _grant(self, size: int) -> memoryview:
        self.in_use += size
        self.high_water = max(self.high_water, self.in_use)
        idle = self._free.get(size)
        if idle:
            self._idle -= size
            return idle.pop()
        return memoryview(mmap.mmap(-1, size))
