"""An initiator's session on its one connection: login, what the target says unasked, and the end (RFC 7143)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from initiator.commands import Commands
from initiator.requests import SERIAL_HALF
from initiator.task import Request, code_name
from iser.datamover import InitiatorDatamover
from iser.errors import CommandAborted, CommandError, ConnectionLost, IserError, PduError
from iser.login import InitiatorLogin, LoginResult
from iser.pdu import (
    FINAL,
    RESERVED_TAG,
    AsyncEvent,
    AsyncMessage,
    LogoutReason,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    RejectReason,
    ScsiCommand,
    ScsiResponse,
    TaskManagementResponse,
    TextResponse,
    decode_bhs,
)

__all__ = ["BREAK_OFF", "LINGER", "LOGOUT_TIMEOUT", "MAX_GRACE", "Session"]

LOGOUT_TIMEOUT: Final = 5.0  # seconds for the answer to a logout
BREAK_OFF: Final = 1.0  # seconds for a target to refuse the rest of a login that we break off
LINGER: Final = 0.1  # seconds that a target has to close the connection itself after a logout
MAX_GRACE: Final = 10.0  # seconds that commands have left when the target asks for a logout

_MASK: Final = 0xFFFFFFFF

log = logging.getLogger("iser.initiator")


class Session(Commands):
    """The datamover's user.  Made, logged in, by :func:`initiator.establish.open_session`."""

    def __init__(self, login: InitiatorLogin, queue_depth: int, timeout: float, *, immediate_data: bool = True) -> None:
        super().__init__(queue_depth, timeout, immediate_data=immediate_data)
        self._login = login
        self._logged_in: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._orderly: asyncio.Task[None] | None = None

    @property
    def login(self) -> LoginResult:
        """What the login agreed on."""
        return self._login.result

    @property
    def name(self) -> str:
        """The connection, for log lines."""
        return self._datamover.name

    @property
    def ended(self) -> str | None:
        """Why the session takes no more commands; None while it does."""
        return self._ended

    # Login

    async def log_in(self, datamover: InitiatorDatamover) -> None:
        """Drive the login over ``datamover``, which has just connected.

        Raises LoginError, NegotiationError, RemoteProtocolError or ConnectionLost; the caller then closes the
        datamover.
        """
        self._datamover = datamover
        if not self._ended:
            self._send_login(self._login.start())
        await self._logged_in

    async def break_off_login(self) -> None:
        """After a login that failed on our side: have the target end it, too, for one that would not notice."""
        request = None if self._ended else self._login.break_off()
        if request is not None:
            self._datamover.send_control(request)
            await asyncio.wait((self._closed,), timeout=BREAK_OFF)

    def _send_login(self, request: Pdu) -> None:
        if self._login.request_is_final:
            self._datamover.allocate_connection_resources(self.queue_depth)
        self._datamover.send_control(request)

    def _login_response(self, pdu: Pdu) -> None:
        """One step of the login, right in the up-call: full-feature PDUs may follow in the same batch."""
        try:
            request = self._login.receive(pdu)
        except IserError as error:
            self._logged_in.set_exception(error)
            return
        if request is not None:
            self._send_login(request)
            return
        self._enter_full_feature(self._login.result)
        self._logged_in.set_result(None)

    def _enter_full_feature(self, result: LoginResult) -> None:
        params = result.params
        self._cmd_sn, self._max_cmd_sn = result.cmd_sn, result.max_cmd_sn
        self._exp_stat_sn = result.exp_stat_sn
        if self._immediate_data and params.immediate_data:
            self._max_immediate = min(params.first_burst_length, params.to_target_length)
        self._datamover.notice_key_values(params)
        self._datamover.enable_datamover()
        self._quick = self._datamover.quick
        if self._quick is not None:
            self._quick.answer_quickly(self._good)

    # Up-calls of the datamover

    def control_notify(self, pdu: Pdu) -> None:
        """See :class:`iser.datamover.DatamoverUser`."""
        bhs = pdu.bhs
        if self._logged_in.done():
            if type(bhs) is ScsiResponse:
                self._respond(pdu, bhs)
            else:
                self._control(pdu, bhs)
        else:
            self._login_response(pdu)

    def _control(self, pdu: Pdu, bhs: Any) -> None:
        if not isinstance(bhs, NopIn | TaskManagementResponse | TextResponse | LogoutResponse | AsyncMessage | Reject):
            raise PduError(f"the target sent a {type(bhs).__name__}, which has no place in the full-feature phase")
        if (bhs.max_cmd_sn - self._max_cmd_sn & _MASK) < SERIAL_HALF:
            self._max_cmd_sn = bhs.max_cmd_sn
        if isinstance(bhs, NopIn) and bhs.itt == RESERVED_TAG:
            if bhs.ttt != RESERVED_TAG:
                self._send(NopOut(lun=bhs.lun, ttt=bhs.ttt), bytes(pdu.data))
        else:
            self._exp_stat_sn = (bhs.stat_sn + 1) & _MASK  # a NOP-In of the target's own takes no StatSN
            if isinstance(bhs, AsyncMessage):
                self._async_message(bhs)
            elif isinstance(bhs, Reject):
                self._rejected(bhs, bytes(pdu.data))
            else:
                self._answered(pdu, bhs)
        self._pump()

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        """See :class:`iser.datamover.DatamoverUser`: at error recovery level 0 the session cannot go on."""
        del bhs
        raise error

    def connection_terminate_notify(self, reason: IserError | None) -> None:
        """See :class:`iser.datamover.DatamoverUser`."""
        self._end(f"the connection was lost: {reason}" if reason else "the target closed the connection")

    # What the target says unasked

    def _async_message(self, bhs: AsyncMessage) -> None:
        event = bhs.async_event
        name = code_name(AsyncEvent, event)
        log.info("%s: asynchronous message: %s", self.name, name)
        if event in (AsyncEvent.LOGOUT_REQUESTED, AsyncEvent.NEGOTIATION_REQUESTED):
            # Renegotiation offers nothing at error recovery level 0 that a new login does not.
            self._close_soon(f"the target asked to end the session ({name})", min(bhs.parameter3, MAX_GRACE))
        elif event in (AsyncEvent.CONNECTION_DROPPED, AsyncEvent.ALL_CONNECTIONS_DROPPED):
            self._drop(f"the target dropped the connection ({name}); log in again after {bhs.parameter2} seconds")
        elif event == AsyncEvent.TASKS_TERMINATED:
            for task in [task for task in self._tasks.values() if task.lun == bhs.lun]:
                self._forget(task, CommandAborted("the target terminated all commands at this LUN"))

    def _close_soon(self, why: str, grace: float) -> None:
        if self._ended is None:
            self._ended = why
            self._orderly = self._loop.create_task(self._close_orderly(grace))

    async def _close_orderly(self, grace: float) -> None:
        if self._tasks and grace:
            await asyncio.wait([task.future for task in self._tasks.values()], timeout=grace)
        await self._log_out()
        self._terminate()

    def _rejected(self, bhs: Reject, header: bytes) -> None:
        """Fail what the target rejected; ``header`` is its BHS."""
        try:
            rejected = decode_bhs(header)
            itt, what = getattr(rejected, "itt", RESERVED_TAG), f"our {type(rejected).__name__}"
            if isinstance(rejected, ScsiCommand) and rejected.cmd_sn == bhs.exp_cmd_sn and itt in self._tasks:
                self._fill_gap(rejected.cmd_sn)
        except PduError:
            itt, what = RESERVED_TAG, "a PDU of ours"
        reason = code_name(RejectReason, bhs.reason)
        error = CommandError(f"the target rejected {what} with reason {reason}; look in the target's log")
        task, request = self._tasks.get(itt), self._requests.get(itt)
        if task:
            self._forget(task, error)
        elif request:
            self._finish(request, error)
        else:
            log.warning("%s: %s", self.name, error)

    def _fill_gap(self, cmd_sn: int) -> None:
        """Ping under the number of a rejected command: the target has not counted it, and holds all that come after."""
        gap = self._loop.create_future()
        request = Request(self._tags.take(), "the ping in place of a rejected command", NopIn, self.timeout, gap)
        gap.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._requests[request.itt] = request
        self._set_deadline(request, self.timeout)
        self._datamover.send_control(Pdu(NopOut(itt=request.itt, cmd_sn=cmd_sn, exp_stat_sn=self._exp_stat_sn)))

    # The end

    def _end(self, why: str) -> None:
        """The connection has ended, and every tag is free."""
        self._ended = self._ended or why
        self._fail_tasks(why)
        self._fail_requests(why)
        if not self._logged_in.done():
            self._logged_in.set_exception(ConnectionLost(f"{why} during login"))
        if not self._closed.done():
            self._closed.set_result(None)

    def _terminate(self) -> None:
        self._datamover.connection_terminate()
        self._end("the session was closed")

    async def _log_out(self) -> None:
        """Log out, within LOGOUT_TIMEOUT, and let the target close the connection if it will."""
        if self._closed.done():
            return
        bhs = LogoutRequest(flags=FINAL | LogoutReason.CLOSE_SESSION, cid=self.login.cid)
        try:
            await self._ask(self._request(bhs, "the logout", LogoutResponse, LOGOUT_TIMEOUT))
            await asyncio.wait((self._closed,), timeout=LINGER)
        except IserError as error:
            log.info("%s: logout: %s", self.name, error)

    async def close(self) -> None:
        """Log out, disconnect and free everything; commands on their way fail with ConnectionLost.  Idempotent."""
        try:
            if self._ended is None:
                self._ended = "the session was closed"
                await self._log_out()
            elif self._orderly:
                await asyncio.wait((self._orderly,))
        finally:
            self._terminate()
            await self._datamover.close()
