"""A worker as the parent sees it: a process that is asked over its channel."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from iser.errors import CommandTimeout, ConnectionLost, ResourceError
from target.closing import STUCK_TIMEOUT
from target.server import DRAIN_TIMEOUT
from target.workers.channel import Channel
from target.workers.messages import Answer, Json, Request, Start

__all__ = ["ANSWER_TIMEOUT", "CHANGE_TIMEOUT", "STOP_TIMEOUT", "Worker"]

ANSWER_TIMEOUT: Final = 3.0  # seconds for what a worker knows at once; less than who asks for metrics has
CHANGE_TIMEOUT: Final = 120.0  # seconds to open or close what a configuration names
#: Seconds to end in order: what running commands get, and connections and stores that are stuck.
STOP_TIMEOUT: Final = DRAIN_TIMEOUT + 2 * STUCK_TIMEOUT + 5.0


class Worker:
    """Made by :meth:`spawn`; ``number`` is from 1, ``began`` of the monotonic clock."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self.number = number
        self.began = monotonic()
        self._process = process
        self._channel = Channel(sock, self._on_message, self._on_end)
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Json]] = {}

    @classmethod
    async def spawn(cls, number: int) -> Worker:
        """Start the process, which does nothing yet.  Raises ResourceError."""
        ours, theirs = socket.socketpair()
        words = [sys.executable, "-P", "-m", "target.workers.process", str(number), str(theirs.fileno())]
        try:
            # A session of its own, as what is typed at our terminal is for us; ours is the only way to tell it to end.
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise ResourceError(f"cannot start worker {number}: {error.strerror or error}") from error
        finally:
            theirs.close()
        return cls(number, process, ours)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def start(self, what: Start, descriptors: Sequence[int]) -> None:
        """Let it serve.  Raises UsageError and IserError in the worker's words, or ConnectionLost."""
        await self.ask("start", what, descriptors, CHANGE_TIMEOUT)

    async def ask(
        self, command: str, arguments: Any = None, descriptors: Sequence[int] = (), timeout: float = ANSWER_TIMEOUT
    ) -> Json:
        """What it answers to ``command``.

        Raises UsageError and IserError in the worker's words, ConnectionLost where it has ended, CommandTimeout.
        """
        request = Request(next(self._numbers), command, arguments)
        answer = self._asked[request.number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._channel.send(request.encode(), descriptors)
                return await answer
        except TimeoutError:
            raise CommandTimeout(f"worker {self.number} did not answer within {timeout:g} seconds") from None
        finally:
            del self._asked[request.number]

    async def stop(self) -> None:
        """Let it end in order, or else at once."""
        with suppress(ConnectionLost, CommandTimeout):  # it has ended, or hangs
            await self.ask("stop")
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self.ended()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self.ended()

    async def ended(self) -> str:
        """Wait for its end; returns how that was."""
        code = await self._process.wait()
        self._channel.close()
        self._fail_all()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _on_message(self, data: bytes, descriptors: list[int]) -> None:
        for descriptor in descriptors:  # we ask for none
            os.close(descriptor)
        try:
            answer = Answer.decode(data)
            asked = self._asked.get(answer.number)
            if asked and not asked.done():
                _settle(asked, answer)
        except ConnectionLost:
            self._channel.close()
            self._fail_all()

    def _on_end(self) -> None:
        self._fail_all()

    def _fail_all(self) -> None:
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ConnectionLost(f"worker {self.number} has ended"))


def _settle(asked: asyncio.Future[Json], answer: Answer) -> None:
    failure = answer.failure()
    if failure:
        asked.set_exception(failure)
    else:
        asked.set_result(answer.value)


def _environment() -> dict[str, str]:
    """Ours, so that it finds the same modules and does not speak to the service manager."""
    own = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    return own | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
