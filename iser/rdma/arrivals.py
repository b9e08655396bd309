"""What the listeners of all providers do with the connection requests that arrive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from iser.errors import IserError, UsageError
from iser.rdma.api import ConnectRequest

__all__ = ["Arrivals", "PendingRequest"]


class PendingRequest(ConnectRequest):
    """A request that tells when it is over: ``answered`` is set once it is accepted, refused or dropped."""

    answered: asyncio.Event


class Arrivals:
    """The requests of one listener: each goes to the handler, and is refused if that ends without an answer.

    ``on_request`` is the user's handler (:meth:`iser.rdma.api.Provider.listen`).  ``on_answered`` is called once for
    each request, when it is answered: a handler that never answers holds a place, one that goes on to serve the
    connection in the same task does not.  ``log`` hears of handlers that fail.
    """

    def __init__(
        self,
        on_request: Callable[[ConnectRequest], Awaitable[None]],
        on_answered: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self._on_request = on_request
        self._on_answered = on_answered
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def hand_over(self, request: PendingRequest) -> None:
        """Start the handler for ``request``, in a task of its own."""
        self._start(self._ask(request))
        self._start(self._await_answer(request))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _await_answer(self, request: PendingRequest) -> None:
        await request.answered.wait()
        self._on_answered()

    async def _ask(self, request: PendingRequest) -> None:
        host, port = request.info.remote_address
        try:
            await self._on_request(request)
        except IserError as error:
            self._log.info("connection from %s:%s: %s", host, port, error)
        except Exception:
            self._log.exception("the handler of the connection from %s:%s failed", host, port)
        if not request.answered.is_set():
            with contextlib.suppress(UsageError):
                await request.reject()
