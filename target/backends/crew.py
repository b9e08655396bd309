"""Threads that wait for a store, so that the event loop need not.

It does what ``loop.run_in_executor`` does with a third of the processor time, which is most of what a small write to a
file takes: a job is one future, and results that come together are told to the loop by one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Crew"]

_Result = TypeVar("_Result")


class _Job:
    """``future`` is who waits for it; ``over`` is set when nothing of it runs any more."""

    __slots__ = ("arguments", "error", "future", "over", "result", "work")

    def __init__(self, work: Callable[..., Any], arguments: tuple[Any, ...], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.arguments = arguments
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = False


class Crew:
    """At most ``threads`` of them, which come as they are needed.  All calls are made from one event loop."""

    __slots__ = ("_done", "_jobs", "_loop", "_most", "_name", "_told", "_under_way", "threads")

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[_Job] = deque()
        self._told = False  # the loop will look at what is done
        self._under_way = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.threads: list[threading.Thread] = []

    async def run(self, work: Callable[..., _Result], *arguments: object) -> _Result:
        """What ``work`` returns, called in a thread.

        It outlives a cancellation of the caller, so that is waited out: it uses buffers.
        """
        self._loop = loop = asyncio.get_running_loop()
        job = _Job(work, arguments, loop.create_future())
        self._under_way += 1
        if len(self.threads) < min(self._under_way, self._most):
            self._hire()
        self._jobs.put(job)
        try:
            return await job.future  # type: ignore[no-any-return]  # that of ``work``
        except asyncio.CancelledError:
            while not job.over:
                job.future = loop.create_future()
                with contextlib.suppress(BaseException):  # what becomes of it, and further cancellations
                    await job.future
            raise

    def shutdown(self) -> None:
        """Wait until all is done.  To be called from another thread than the loop's, which has to turn meanwhile."""
        for _ in self.threads:
            self._jobs.put(None)
        for thread in self.threads:
            thread.join()

    def _hire(self) -> None:
        # A daemon, as one that is stuck must not keep the process; who wants its work done waits for it.
        thread = threading.Thread(target=self._serve, name=f"{self._name}_{len(self.threads)}", daemon=True)
        self.threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        """What each thread does."""
        while (job := self._jobs.get()) is not None:
            try:
                job.result = job.work(*job.arguments)
            except BaseException as error:  # the caller's
                job.error = error
            job.arguments = ()  # buffers, which are their owner's again
            self._done.append(job)
            if not self._told:
                self._told = True
                with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                    assert self._loop is not None
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """Tell the callers; who comes after the first line calls again."""
        self._told = False
        done = self._done
        while done:
            job = done.popleft()
            job.over = True
            self._under_way -= 1
            if job.future.done():  # cancelled; who waits has yet to find out
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
