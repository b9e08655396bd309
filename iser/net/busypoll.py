"""Poll the sockets for a moment before sleeping: waking a processor that sleeps takes longer than a small request.

While a :class:`BusyPoll` polls it asks the event loop for one more turn each time, so that the loop looks at all of its
descriptors without waiting, and serves what is ready as ever.  It is the idea of Linux's ``haltpoll`` and of KVM's halt
polling one level up, with the same rule: it is worth it only if what came last came soon.
"""

from __future__ import annotations

import asyncio
import os
from time import perf_counter
from typing import Final
from weakref import WeakKeyDictionary

__all__ = [
    "CONTENDED",
    "FIRST_REST",
    "LOST_SHARE",
    "MAX_BURST",
    "REACH",
    "REST",
    "BusyPoll",
    "PollPolicy",
    "busy_poll",
    "spare_processors",
]

REACH: Final = 2  # windows; what took as long with a sleep, and waking up, may come within one without
LOST_SHARE: Final = 0.05  # of a processor's time, that polling in vain may take
MAX_BURST: Final = 20  # polls in vain in a row, if there have been none for long
CONTENDED: Final = 1e-3  # seconds; a step as long means that others want the processor, or that there is a lot to do
FIRST_REST: Final = 0.004  # seconds without polling after that; twice as long each time it comes again soon
REST: Final = 0.256  # the most


class PollPolicy:
    """When to poll, for ``window`` seconds at most after the last arrival; 0 is never.  It is told ``now``, in seconds.

    A poll begins only if what came last came within REACH windows, so that requests too slow to gain anything are left
    alone.  Polls in vain take LOST_SHARE of the time at most, whatever comes.  While ``held`` is
    not 0 there are threads at work that need the interpreter, and nothing is polled.  ``won`` and ``lost`` count.
    """

    __slots__ = (
        "_contended",
        "_credit",
        "_credited",
        "_last",
        "_near",
        "_pause",
        "_rest",
        "_stepped",
        "held",
        "lost",
        "polling",
        "window",
        "won",
    )

    def __init__(self, window: float = 0.0) -> None:
        self.window = window
        self.held = 0
        self.won = self.lost = 0
        self.polling = False
        self._last = self._stepped = self._rest = -1.0  # times: of the last arrival, the last step, the end of a pause
        self._pause = FIRST_REST
        self._contended = -1.0  # when a step last took too long
        self._near = False  # whether the last arrival came within the window
        self._credit = 0.0  # seconds that may be lost
        self._credited = -1.0

    def arrived(self, now: float) -> bool:
        """Something came and has been served at ``now``.  Returns whether to begin to poll: then call :meth:`step`."""
        gap = now - self._last
        self._near = gap < self.window
        self._last = now
        if gap >= REACH * self.window or self.polling or self.held or now < self._rest:
            return False
        self.polling = True
        self._stepped = now
        return True

    def step(self, now: float) -> bool:
        """Everything that was ready has been served.  Returns whether to go on polling."""
        before, self._stepped = self._stepped, now
        came = self._last > before
        self.won += came
        if now - before >= CONTENDED:
            # Once may be anybody's moment; what goes on wants the processor for itself.
            soon = now - self._contended < 2 * REST
            self._pause = min(2 * self._pause, REST) if soon else FIRST_REST
            self._contended = now
            self._rest = now + self._pause
        elif not self.held:
            if self._near if came else now - self._last < self.window:
                return True
            if not came:
                self._lose(now)
        self.polling = False
        return False

    def _lose(self, now: float) -> None:
        """Nothing came.  Who is out of credit pauses until it has grown enough for the next time."""
        window = self.window
        grown = (now - self._credited) * LOST_SHARE
        self._credit = min(self._credit + grown, window * MAX_BURST) - (now - self._last)
        self._credited = now
        self.lost += 1
        if self._credit < window:
            self._rest = now + (window - self._credit) / LOST_SHARE


class BusyPoll(PollPolicy):
    """The one of an event loop: see :func:`busy_poll`.  Who serves descriptors calls :meth:`served` if ``window``."""

    __slots__ = ("__weakref__",)

    def served(self) -> None:
        """Something came and has been served."""
        if self.arrived(perf_counter()):
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        before = self._stepped
        if self.step(perf_counter()):
            if self._last <= before:
                os.sched_yield()  # to whoever else wants this processor
            asyncio.get_running_loop().call_soon(self._turn)


_polls: WeakKeyDictionary[asyncio.AbstractEventLoop, BusyPoll] = WeakKeyDictionary()


def busy_poll() -> BusyPoll:
    """That of the running loop; it does nothing until someone sets its ``window``."""
    loop = asyncio.get_running_loop()
    poll = _polls.get(loop)
    if poll is None:
        poll = _polls[loop] = BusyPoll()
    return poll


def spare_processors(processes: int) -> bool:
    """Whether we may run on more processors than ``processes``, so that so many that poll leave one to others."""
    return len(os.sched_getaffinity(0)) > processes
