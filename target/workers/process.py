"""A worker: the process that serves its share of the targets, and does what the parent says."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from iser.errors import BackendError, IserError, UsageError
from iser.logs import configure_logging
from target.admin.commands import Administration
from target.config import Config
from target.config.access import build_policy
from target.loop import leave, run
from target.reload import Reload
from target.server import TargetServer
from target.share import Share
from target.workers.assignment import Assignment
from target.workers.channel import Channel
from target.workers.messages import Answer, Json, Request, Start

__all__ = ["WorkerProcess", "main"]

log = logging.getLogger("iser.workers")

_Sockets = dict[str, tuple[socket.socket, ...]]


class _Pending(NamedTuple):
    """What is ready to be served, what it was made from, and what to go back to."""

    reload: Reload
    wanted: Config
    sockets: _Sockets
    before: Share | None


class WorkerProcess:
    """Worker ``number``, whose parent is at the other end of ``sock``.  Run :meth:`serve` once.

    It ends in order when the parent says so, or has gone.
    """

    def __init__(self, number: int, sock: socket.socket) -> None:
        self._number = number
        self._channel = Channel(sock, self._on_message, self._end)
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: TargetServer | None = None
        self._administration: Administration
        self._changing = asyncio.Lock()  # of what the parent asks for, in its order
        self._pending: _Pending | None = None
        self._special: dict[str, Callable[[Json, Sequence[int]], Awaitable[Json]]] = {
            "start": self._start,
            "prepare": self._prepare,
            "commit": self._commit,
            "abort": self._abort,
            "metrics": self._metrics,
            "stop": self._stop,
        }

    async def serve(self) -> None:
        """Do as the parent says until it says to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the parent's affair
        await self._over.wait()
        async with self._changing:
            await self._roll_back()
        if self._server:
            await self._server.close()
        self._channel.close()
        if self._server and self._server.stuck:
            leave()

    def _end(self) -> None:
        self._over.set()

    def _on_message(self, data: bytes, descriptors: list[int]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(Request.decode(data), descriptors))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Request, descriptors: list[int]) -> None:
        try:
            answer = Answer(request.number, await self._do(request, descriptors))
        except IserError as error:
            answer = Answer(request.number, str(error), error=True, usage=isinstance(error, UsageError))
        except Exception as error:  # a fault of ours must not end a worker that serves
            log.exception("internal error in %s", request.command)
            answer = Answer(request.number, f"internal error: {error!r}", error=True)
        try:
            await self._channel.send(answer.encode())
        except IserError as error:
            log.debug("no answer to %s: %s", request.command, error)

    async def _do(self, request: Request, descriptors: list[int]) -> Json:
        special = self._special.get(request.command)
        if special:
            return await special(request.arguments, descriptors)
        return await self._administration.run(request.command, request.arguments)

    # What the parent asks for

    async def _start(self, start: Start, descriptors: Sequence[int]) -> Json:
        configure_logging(start.logging.specs, logging.INFO, start.logging.form, worker=self._number)
        sockets = _adopt(start.portals, descriptors)
        assignment = start.assignment
        async with self._changing:
            try:
                share = assignment.share(self._number, build_policy(assignment.config), sockets)
                self._server = await TargetServer.start(assignment.part(self._number), share=share)
            except BaseException:
                _close(sockets)
                raise
            self._administration = Administration(self._server)
        return {"pid": os.getpid()}

    async def _prepare(self, start: Start, descriptors: Sequence[int]) -> Json:
        """Get ready for a new configuration, which nobody sees before ``commit``; else all is as it was."""
        sockets = _adopt(start.portals, descriptors)
        async with self._changing:
            try:
                await self._get_ready(start.assignment, sockets)
            except BaseException:
                _close(sockets)
                raise

    async def _get_ready(self, assignment: Assignment, sockets: _Sockets) -> None:
        server = self._server
        if server is None or self._over.is_set():
            raise UsageError(f"worker {self._number} is not serving; it takes no new configuration")
        policy = build_policy(assignment.config)
        await server.changing.acquire()
        before, server.share = server.share, assignment.share(self._number, policy, sockets)
        wanted = assignment.part(self._number)
        reload = Reload(server, wanted, policy)
        self._pending = _Pending(reload, wanted, sockets, before)
        try:
            await reload.prepare()
        except BaseException:
            await self._roll_back()
            raise

    async def _commit(self, _: Json, __: Sequence[int]) -> Json:
        """Serve what was prepared; says what could not be had, in words and as LUNs."""
        async with self._changing:
            server, pending = self._server, self._pending
            if server is None or pending is None:
                raise BackendError(f"worker {self._number} has no configuration prepared")
            self._pending = None
            try:
                await pending.reload.carry_out()
            finally:
                server.changing.release()
            served = {(target.name, lun.id) for target in server.config.target for lun in target.lun}
            missing = [(target.name, lun.id) for target in pending.wanted.target for lun in target.lun]
            return {"failed": pending.reload.failed, "missing": [each for each in missing if each not in served]}

    async def _abort(self, _: Json, __: Sequence[int]) -> Json:
        async with self._changing:
            await self._roll_back()

    async def _roll_back(self) -> None:
        if self._pending and self._server:
            pending, self._pending = self._pending, None
            self._server.share = pending.before
            await pending.reload.roll_back()
            _close(pending.sockets)
            self._server.changing.release()

    async def _metrics(self, _: Json, __: Sequence[int]) -> Json:
        from target.workers.metrics import collected  # noqa: PLC0415 - only who wants metrics pays for importing it

        assert self._server  # the parent asks only who has started
        return await collected(self._server)

    async def _stop(self, _: Json, __: Sequence[int]) -> Json:
        self._end()


def _adopt(portals: Sequence[str], descriptors: Sequence[int]) -> _Sockets:
    """The sockets that came with a message."""
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    assert len(sockets) == 2 * len(portals)
    for sock in sockets:
        sock.setblocking(False)
    return {name: (sockets[2 * index], sockets[2 * index + 1]) for index, name in enumerate(portals)}


def _close(sockets: _Sockets) -> None:
    for pair in sockets.values():
        for sock in pair:
            sock.close()


async def _serve(number: int, descriptor: int) -> None:
    await WorkerProcess(number, socket.socket(fileno=descriptor)).serve()


def main() -> None:
    """Entry point: the number of the worker, and the descriptor of the channel."""
    number, descriptor = map(int, sys.argv[1:3])
    run(_serve(number, descriptor))


if __name__ == "__main__":
    main()
