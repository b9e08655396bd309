"""A lock of byte ranges: writers share them, a read-modify-write has one for itself."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Hold", "RangeLock"]


class Hold:
    """Bytes ``start`` up to ``end`` that somebody holds or waits for; give it back to :meth:`RangeLock.release`."""

    __slots__ = ("end", "exclusive", "granted", "start")

    def __init__(self, start: int, end: int, exclusive: bool) -> None:
        self.start = start
        self.end = end
        self.exclusive = exclusive
        self.granted: asyncio.Future[None] | None = None

    def excludes(self, other: Hold) -> bool:
        """True where the two cannot be held at once."""
        return (self.exclusive or other.exclusive) and self.start < other.end and other.start < self.end


class RangeLock:
    """Holds of ranges, granted in the order in which they were asked for.

    Without any exclusive hold, taking and releasing a shared one is two set operations.
    """

    __slots__ = ("_exclusive", "_held", "_queue")

    def __init__(self) -> None:
        self._held: set[Hold] = set()
        self._exclusive = 0
        self._queue: deque[Hold] = deque()

    @property
    def shared(self) -> bool:
        """True when nobody holds or wants a range for itself, so that a write which is over at once needs no hold."""
        return not self._exclusive

    async def acquire(self, start: int, end: int, *, exclusive: bool) -> Hold:
        """Wait until nobody holds, or waited earlier for, what excludes the range."""
        hold = Hold(start, end, exclusive)
        if (not exclusive and not self._exclusive) or self._free(hold, self._queue):
            self._take(hold)
            return hold
        hold.granted = asyncio.get_running_loop().create_future()
        self._queue.append(hold)
        self._exclusive += exclusive  # who comes after it has to look
        try:
            await hold.granted
        except asyncio.CancelledError:
            if hold in self._held:
                self.release(hold)
            else:
                self._queue.remove(hold)
                self._exclusive -= exclusive
                self._wake()
            raise
        return hold

    def release(self, hold: Hold) -> None:
        """Give a hold back, and grant what it kept waiting."""
        self._held.remove(hold)
        self._exclusive -= hold.exclusive
        if self._queue:
            self._wake()

    def _take(self, hold: Hold) -> None:
        self._held.add(hold)
        self._exclusive += hold.exclusive

    def _free(self, hold: Hold, earlier: deque[Hold]) -> bool:
        return not any(map(hold.excludes, self._held)) and not any(map(hold.excludes, earlier))

    def _wake(self) -> None:
        """Grant all that can be; one that cannot keeps those behind it waiting which it excludes."""
        waiting, self._queue = self._queue, deque()
        for hold in waiting:
            if self._free(hold, self._queue) and hold.granted is not None:
                self._held.add(hold)  # it has been counted since it came
                if not hold.granted.done():
                    hold.granted.set_result(None)
            else:
                self._queue.append(hold)
