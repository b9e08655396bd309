"""Completions of our own making, for what no request of the device carries out: told from the event loop."""

from __future__ import annotations

import asyncio

from iser.rdma.api import WorkCompletion
from iser.rdma.verbs.cq import VerbsCompletionQueue

__all__ = ["LateCompletions"]


class LateCompletions:
    """Delivers in the next turn of the loop; while ``held``, as during a flush, keeps what comes for :meth:`take`."""

    __slots__ = ("_cq", "_loop", "_scheduled", "_waiting", "held")

    def __init__(self, cq: VerbsCompletionQueue) -> None:
        self._cq = cq
        self._loop = asyncio.get_running_loop()
        self._waiting: list[WorkCompletion] = []
        self._scheduled = False
        self.held = False

    def add(self, *completions: WorkCompletion) -> None:
        """Deliver them soon."""
        self._waiting += completions
        if not self._scheduled and not self.held:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def take(self) -> list[WorkCompletion]:
        """What was kept, for the caller to deliver; what comes later is delivered as before."""
        self.held = False
        taken, self._waiting = self._waiting, []
        return taken

    def _deliver(self) -> None:
        self._scheduled = False
        if not self.held:
            late, self._waiting = self._waiting, []
            self._cq.deliver(late)
