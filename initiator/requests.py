"""The base of a session: sequence numbers, task tags, deadlines, and requests other than SCSI commands."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from initiator.task import Request, TagPool, Task
from iser.datamover import InitiatorDatamover
from iser.errors import CommandTimeout, ConnectionLost, IserError, RemoteProtocolError
from iser.pdu import IMMEDIATE, LogoutRequest, NopIn, NopOut, Pdu, TextResponse

__all__ = ["MAX_ABORTED", "MAX_IMMEDIATE", "Follow", "Requests"]

MAX_IMMEDIATE: Final = 8  # requests outstanding; each takes a receive of the target's that the window does not count
MAX_ABORTED: Final = 256  # abandoned tags whose response, should it still come, is no violation
SERIAL_HALF: Final = 0x80000000
NEVER: Final = float("inf")

Follow = Callable[[Pdu], Pdu | None]

log = logging.getLogger("iser.initiator")


class Requests(ABC):
    """Requests are immediate: the command window does not hold them up, MAX_IMMEDIATE does.

    One timer serves all deadlines of the session.  It is set to the earliest, and moved only when an earlier one comes.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._datamover: InitiatorDatamover
        self._ended: str | None = None  # why, once the session takes nothing new
        self._tags = TagPool()
        self._requests: dict[int, Request] = {}
        self._unsent: deque[tuple[Request, Any, bytes]] = deque()
        self._aborted: deque[int] = deque(maxlen=MAX_ABORTED)
        self._cmd_sn = 0
        self._max_cmd_sn = 0
        self._exp_stat_sn = 0
        self._wakeup = NEVER
        self._timer: asyncio.TimerHandle | None = None

    async def nop(self, data: bytes = b"", timeout: float | None = None) -> bytes:
        """Ping the target; what it echoes (LIO echoes nothing).

        ``timeout`` in seconds counts from when it is sent.  Raises CommandTimeout or ConnectionLost.
        """
        self._require_open()
        seconds = self.timeout if timeout is None else timeout
        return bytes((await self._ask(self._request(NopOut(), "a ping", NopIn, seconds, data))).data)

    async def text(self, begin: Callable[[int], tuple[Pdu, Follow]], timeout: float) -> None:
        """A text exchange.  ``begin`` makes, for a task tag, the first request and what takes each response and gives
        the next request, or None when that was the last.
        """
        self._require_open()
        itt = self._tags.take()
        pdu, follow = begin(itt)
        request = Request(itt, "a text request", TextResponse, timeout, self._loop.create_future(), follow)
        self._submit(request, pdu.bhs, bytes(pdu.data))
        await self._ask(request)

    def _request(self, bhs: Any, what: str, answer: type[Any], timeout: float, data: bytes = b"") -> Request:
        """Send ``bhs`` under a tag of its own, as soon as there is room."""
        request = Request(self._tags.take(), what, answer, timeout, self._loop.create_future())
        self._submit(request, bhs._replace(itt=request.itt), data)
        return request

    def _submit(self, request: Request, bhs: Any, data: bytes) -> None:
        self._requests[request.itt] = request
        if len(self._requests) - len(self._unsent) > MAX_IMMEDIATE and not isinstance(bhs, LogoutRequest):
            self._unsent.append((request, bhs, data))
        else:
            self._start(request, bhs, data)

    def _start(self, request: Request, bhs: Any, data: bytes) -> None:
        self._set_deadline(request, request.timeout)
        self._send(bhs, data)

    def _send(self, bhs: Any, data: bytes = b"") -> None:
        numbered = bhs._replace(opcode=bhs.opcode | IMMEDIATE, cmd_sn=self._cmd_sn, exp_stat_sn=self._exp_stat_sn)
        self._datamover.send_control(Pdu(numbered, data))

    async def _ask(self, request: Request) -> Pdu:
        try:
            return await request.future
        except asyncio.CancelledError:
            if request.itt in self._requests:
                self._abandon(request)
            raise

    def _answered(self, pdu: Pdu, bhs: Any) -> None:
        """Take the response to a request."""
        request = self._requests.get(bhs.itt)
        if request is None:
            self._unknown_tag(bhs.itt, type(bhs).__name__)
            return
        if type(bhs) is not request.answer:
            raise RemoteProtocolError(f"the target answered {request.what} with a {type(bhs).__name__}")
        try:
            follow_up = request.follow(pdu) if request.follow else None
        except IserError as error:
            self._finish(request, error)
            return
        if follow_up is not None:
            self._send(follow_up.bhs, bytes(follow_up.data))
        else:
            self._finish(request, pdu._replace(data=bytes(pdu.data)))

    def _finish(self, request: Request, outcome: Pdu | IserError) -> None:
        self._remove(request)
        if request.future.done():
            return
        if isinstance(outcome, IserError):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)

    def _abandon(self, request: Request) -> None:
        """Forget a request whose response may still come."""
        self._aborted.append(request.itt)
        self._remove(request)

    def _remove(self, request: Request) -> None:
        del self._requests[request.itt]
        self._tags.give(request.itt)
        if not self._unsent:
            return
        if request.deadline == NEVER:
            self._unsent = deque(item for item in self._unsent if item[0] is not request)
        else:
            self._start(*self._unsent.popleft())

    def _unknown_tag(self, itt: int, what: str) -> None:
        if itt not in self._aborted:
            raise RemoteProtocolError(f"the target sent a {what} to task {itt:#x}, which does not exist")
        log.debug("%s: ignoring a %s to abandoned task %#x", self._datamover.name, what, itt)

    # Deadlines

    def _set_deadline(self, item: Task | Request, seconds: float) -> None:
        item.deadline = self._loop.time() + seconds
        if item.deadline < self._wakeup:
            self._arm(item.deadline)

    def _arm(self, deadline: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._wakeup = deadline
        self._timer = self._loop.call_at(deadline, self._sweep)

    def _sweep(self) -> None:
        """End what is overdue, and wake up again for what is due next."""
        self._timer, self._wakeup = None, NEVER
        now = self._loop.time()
        due = NEVER
        for task in self._all_tasks():
            if task.deadline > now:
                due = min(due, task.deadline)
            else:
                self._task_overdue(task)
        for request in list(self._requests.values()):
            if request.deadline > now:
                due = min(due, request.deadline)
            else:
                self._abandon(request)
                if not request.future.done():
                    request.future.set_exception(
                        CommandTimeout(
                            f"the target did not answer {request.what} in time; it may be overloaded or hung"
                        )
                    )
        if due < self._wakeup:
            self._arm(due)

    @abstractmethod
    def _all_tasks(self) -> Iterable[Task]:
        """A copy of all commands, sent and waiting."""

    @abstractmethod
    def _task_overdue(self, task: Task) -> None:
        """The deadline of ``task`` has passed."""

    # The end

    def _require_open(self) -> None:
        if self._ended:
            raise ConnectionLost(self._ended)

    def _drop(self, why: str) -> None:
        log.info("%s: dropping the connection: %s", self._datamover.name, why)
        self._datamover.abort(ConnectionLost(why))

    def _fail_requests(self, why: str) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        requests, self._requests = self._requests, {}
        self._unsent.clear()
        for request in requests.values():
            if not request.future.done():
                request.future.set_exception(ConnectionLost(why))
