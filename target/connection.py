"""One iSER connection at the target: accept, log in, run the session, clean up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from time import time
from typing import Final

from iser.errors import ConnectionLost, IserError, LoginError, PduError
from iser.login import (
    LOGIN_DATA_LENGTH,
    AdmissionRequest,
    LoginStatus,
    NegotiatedParameters,
    Redirection,
    TargetLogin,
    TargetLoginConfig,
    TargetRecord,
    TextResponder,
    Wishes,
)
from iser.net import display
from iser.pdu import Pdu, TaskManagementRequest
from target.access import Grant, audit_allowed, audit_denied, audit_redirected
from target.execution import Execution
from target.registry import Place, Registry
from target.scsi import LogicalUnit
from target.session import Session
from target.staging import StagingPool
from target.transport import MAX_DATA_RECEIVES, Incoming

__all__ = ["LOGIN_TIMEOUT", "SMALL_DATA_LENGTH", "Connection", "ConnectionSettings"]

SMALL_DATA_LENGTH: Final = 128  # bytes of text in a PDU to iSER initiators, which have small receives
LOGIN_TIMEOUT: Final = 15.0  # seconds from the connection to the full-feature phase

log = logging.getLogger("iser.target")


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What all connections of a server share.  ``queue_depth`` is the command window of a session."""

    queue_depth: int = 128
    remote_invalidate: bool = True
    login_timeout: float = LOGIN_TIMEOUT
    wishes: Wishes = field(default_factory=Wishes)


class Connection:
    """The datamover's user, and the owner of the session on it.  Run :meth:`serve` once.

    ``portal`` is the name of the one that it came in by; ``began`` is in seconds since 1970.
    """

    def __init__(
        self,
        registry: Registry,
        staging: StagingPool,
        settings: ConnectionSettings,
        places: Callable[[Incoming], list[Place]],
        incoming: Incoming,
        entered: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._staging = staging
        self._settings = settings
        self._places = places
        self._entered = entered
        self._asked: AdmissionRequest | None = None
        self._grant: Grant | None = None
        self._incoming = incoming
        self.transport = incoming.transport
        self.remote = incoming.remote
        self.portal = incoming.place.name
        self.began = time()
        self._datamover = incoming.datamover(self)
        self._login = TargetLogin(
            TargetLoginConfig(
                transport=incoming.transport,
                wishes=incoming.wishes(settings.wishes),
                command_window=settings.queue_depth,
            ),
            None,
            self,
        )
        self._ended = asyncio.Event()
        self.session: Session | None = None

    async def serve(self) -> None:
        """Accept the connection and stay until it has ended and all it held is free."""
        settings = self._settings
        try:
            await self._incoming.accept(settings.queue_depth)
        except IserError as error:
            log.info("%s: not accepted: %s", self._datamover.name, error)
            return
        timer = asyncio.get_running_loop().call_later(settings.login_timeout, self._login_overdue)
        try:
            await self._ended.wait()
        finally:
            timer.cancel()
            await self._clean_up()

    def end(self, why: str) -> None:
        """End the connection in an orderly way, its running tasks dropped."""
        if not self._ended.is_set():
            log.info("%s: closing: %s", self._datamover.name, why)
            if self.session:
                self.session.abort_all()
            self._datamover.connection_terminate()
            self._ended.set()

    def drop(self, why: str) -> None:
        """End a connection that has not logged in yet, at once."""
        if not self.session and not self._ended.is_set():
            self._registry.counters.refused["crowded"] += 1
            self._datamover.abort(ConnectionLost(why))

    @property
    def idle(self) -> bool:
        """True when no task is running."""
        return not (self.session and self.session.tasks)

    @property
    def ending(self) -> bool:
        """Whether the connection is over but for what it has to give back."""
        return self._ended.is_set()

    @property
    def admitted(self) -> bool:
        """Whether a rule has let the initiator try to log in."""
        return self._grant is not None

    @property
    def user(self) -> str | None:
        """Who the initiator proved to be."""
        return self._grant.user if self._grant else None

    # What the login asks

    def admit(self, request: AdmissionRequest) -> Grant | Redirection:
        """See :class:`iser.login.TargetDirectory`."""
        self._asked = request
        answer = self._registry.admit(request, self._incoming.reached)
        if isinstance(answer, Grant):
            self._grant = answer
        return answer

    def grant_tsih(self, request: AdmissionRequest) -> int:
        """See :class:`iser.login.TargetDirectory`."""
        return self._registry.grant_tsih(request)

    # Up-calls of the datamover

    def control_notify(self, pdu: Pdu) -> None:
        """See :class:`DatamoverUser`."""
        if self.session:
            self.session.control_notify(pdu)
        else:
            self._login_request(pdu)

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        """See :class:`DatamoverUser`.  Before a session there is nothing that a Reject could belong to."""
        if self.session is None:
            raise error
        self.session.malformed_notify(error, bhs)

    def data_completion_notify(self, itt: int, sn: int) -> None:
        """See :class:`TargetDatamoverUser`."""
        if self.session:
            self.session.data_completion_notify(itt, sn)

    def data_failed_notify(self, itt: int, sn: int, error: PduError) -> None:
        """See :class:`TargetDatamoverUser`."""
        if self.session:
            self.session.data_failed_notify(itt, sn, error)

    def connection_terminate_notify(self, reason: IserError | None) -> None:
        """See :class:`DatamoverUser`."""
        log.info("%s: connection ended: %s", self._datamover.name, reason or "the initiator closed it")
        if self.session:
            self.session.connection_lost()
        self._ended.set()

    # What the session asks for

    def manage_tasks(self, session: Session, bhs: TaskManagementRequest, done: Callable[[int], None]) -> None:
        """See :class:`SessionOwner`."""

        def answer(code: int) -> None:
            if not self._ended.is_set():
                done(code)

        target = self._registry.targets.get(session.login.target_name)
        if target is not None:  # or the session is about to end, its target is gone
            target.tasks.manage(session, bhs, answer)

    def number_of(self, session: Session, unit: LogicalUnit) -> int | None:
        """See :class:`SessionOwner`."""
        target = self._registry.targets.get(session.login.target_name)
        luns = target.device.luns if target else {}
        return next((number for number, each in luns.items() if each is unit), None)

    def close(self, session: Session, why: str) -> None:
        """See :class:`SessionOwner`."""
        del session
        self.end(why)

    def _login_request(self, pdu: Pdu) -> None:
        login = self._login
        if login.failed:
            return
        response = login.receive(pdu)
        if login.done:
            self._begin_session(response)
            return
        self._datamover.send_control(response)
        if login.failure:
            self.end(self._count_failure(login.failure))

    def _count_failure(self, error: LoginError) -> str:
        """Returns why the connection ends."""
        remote, counters = display(self._incoming.remote), self._registry.counters
        if error.status_class == LoginStatus.MOVED_TEMPORARILY >> 8 and self._asked:
            audit_redirected(self._asked, remote, error)
            counters.redirected += 1
            return "login redirected"
        audit_denied(self._asked, self._grant, remote, error)
        counters.refused[f"{error.status_class:02x}{error.status_detail:02x}"] += 1
        return f"login refused: {error}"

    def _begin_session(self, response: Pdu) -> None:
        result, datamover = self._login.result, self._datamover
        params, settings = result.params, self._settings
        datamover.notice_key_values(params)
        datamover.allocate_connection_resources(settings.queue_depth + _data_receives(params, settings.queue_depth))
        asked, grant = self._asked, self._grant
        assert asked
        assert grant
        target = self._registry.targets[result.target_name] if not result.discovery else None
        device = target.view(grant.rule) if target else None
        port_name = f"{result.initiator_name.lower()},i,0x{result.isid.hex()}"  # the case of iSCSI names means nothing
        nexus = device.attach(port_name, params.target_portal_group_tag) if device else None

        def execution(session: Session) -> Execution:
            assert device is not None
            assert nexus is not None
            return Execution(device, nexus, datamover, params, self._staging, session.finish)

        # Linux and libiscsi post receives of 128 bytes of data in a normal iSER session, whatever they negotiate.
        transport = self._incoming.transport
        max_data = LOGIN_DATA_LENGTH if result.discovery or transport != "iser" else SMALL_DATA_LENGTH
        text = TextResponder(params, self._records, transport=transport, max_data=max_data)
        session = Session(self, result, datamover, execution if target else None, text, settings.queue_depth)
        self.session = session
        self._entered()
        self._registry.counters.logins += 1
        audit_allowed(asked, grant, display(self._incoming.remote))
        old = self._registry.enter(session, nexus)
        datamover.send_control(response)
        datamover.enable_datamover()
        log.info(
            "%s: %s logged in to %s%s",
            datamover.name,
            result.initiator_name,
            result.target_name or "discovery",
            self._incoming.note,
        )
        if old is not None:
            old.close("the initiator logged in anew")

    def _records(self, wanted: str) -> list[TargetRecord]:
        return self._registry.records(wanted, self._places(self._incoming), self._login.result.initiator_name)

    def _login_overdue(self) -> None:
        if self.session is None:
            self._registry.counters.refused["timeout"] += 1
            self._datamover.abort(ConnectionLost(f"no login within {self._settings.login_timeout:g} seconds"))

    async def _clean_up(self) -> None:
        session = self.session
        if session:
            session.abort_all()
        await self._datamover.close()
        if session is None:
            if self._login.done:
                self._registry.forget(self._login.result.tsih)
            return
        session.connection_lost()
        self._registry.leave(session)
        if session.execution:
            await session.execution.idle()
        self._registry.counters.session_over(session.login.target_name, self.transport, session.counters)


def _data_receives(params: NegotiatedParameters, queue_depth: int) -> int:
    """Receives for the Data-Outs that a full window of commands may bring unasked."""
    if params.initial_r2t:
        return 0
    each = -(-params.first_burst_length // params.target_recv_data_segment_length)
    return min(each * queue_depth, MAX_DATA_RECEIVES)
