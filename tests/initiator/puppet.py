"""A target whose every PDU a test decides: real connection, real login, then nothing by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from initiator.establish import Link, open_session
from initiator.options import ConnectOptions
from initiator.url import Portal
from iser.datamover import IserTarget
from iser.errors import IserError, LoginError, PduError
from iser.login import Admission, AdmissionRequest, Redirection, TargetLogin, TargetLoginConfig, Wishes
from iser.pdu import FINAL, Pdu, ScsiCommand, ScsiResponse, TaskManagementRequest, TaskManagementResponse
from iser.rdma.api import ConnectRequest
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions

__all__ = ["TARGET", "Directory", "Puppet", "Stage", "provider", "puppets", "session_with_puppet"]

TARGET = "iqn.2026-11.test:puppet"
_T = TypeVar("_T")


def provider() -> SoftIwarp:
    """A provider without the delays that only the kernel's siw needs."""
    return SoftIwarp(SoftIwarpOptions(first_fpdu_delay=0, nudge_delay=0))


class Directory:
    """Lets everybody in, or sends them to ``redirect``."""

    def __init__(self, redirect: Redirection | None = None) -> None:
        self.redirect = redirect

    def admit(self, request: AdmissionRequest) -> Admission | Redirection:
        if request.target_name not in ("", TARGET):
            raise LoginError("no such target", 2, 3)
        return self.redirect or Admission()

    def grant_tsih(self, request: AdmissionRequest) -> int:
        return 1


class Puppet:
    """One connection.  ``inbox`` holds what came after the login; numbers are those of the next response."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.inbox: asyncio.Queue[Pdu] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.datamover = IserTarget(self)
        config = TargetLoginConfig(wishes=stage.wishes, command_window=stage.window)
        self.login = TargetLogin(config, None, stage.directory)
        self.stat_sn = 0
        self.exp_cmd_sn = 0
        self.max_cmd_sn = 0

    def control_notify(self, pdu: Pdu) -> None:
        if self.login.done:
            if isinstance(pdu.bhs, ScsiCommand):
                self.exp_cmd_sn = (pdu.bhs.cmd_sn + 1) & 0xFFFFFFFF
            self.inbox.put_nowait(pdu._replace(data=bytes(pdu.data)))
            return
        if self.stage.mute:
            self.stage.arrived.put_nowait(self)
            return
        response = self.login.receive(pdu)
        if not self.login.done:
            self.datamover.send_control(response)
            return
        result = self.login.result
        self.datamover.notice_key_values(result.params)
        self.datamover.allocate_connection_resources(128)
        self.datamover.send_control(response)
        self.datamover.enable_datamover()
        self.stat_sn, self.exp_cmd_sn = result.stat_sn, result.cmd_sn
        self.max_cmd_sn = (result.cmd_sn + self.stage.window - 1) & 0xFFFFFFFF
        self.stage.arrived.put_nowait(self)

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        raise error

    def data_completion_notify(self, itt: int, sn: int) -> None:
        self.inbox.put_nowait(Pdu(ScsiResponse(itt=itt)))

    def data_failed_notify(self, itt: int, sn: int, error: PduError) -> None:
        raise error

    def connection_terminate_notify(self, reason: IserError | None) -> None:
        self.ended.set()

    async def receive(self, kind: type[_T]) -> tuple[_T, bytes]:
        """The next PDU, which has to be a ``kind``, with its data."""
        pdu = await asyncio.wait_for(self.inbox.get(), 5)
        assert isinstance(pdu.bhs, kind), pdu.bhs
        return pdu.bhs, bytes(pdu.data)

    def send(self, bhs: Any, data: bytes = b"", *, numbered: bool = True) -> None:
        """Send ``bhs`` as the next response; one that is not ``numbered`` takes no StatSN."""
        full = bhs._replace(stat_sn=self.stat_sn, exp_cmd_sn=self.exp_cmd_sn, max_cmd_sn=self.max_cmd_sn)
        self.stat_sn = (self.stat_sn + numbered) & 0xFFFFFFFF
        self.datamover.send_control(Pdu(full, data))

    def respond(self, itt: int, data: bytes = b"", *, slot: bool = True, **fields: Any) -> None:
        """Answer a command, and open its slot in the window again."""
        self.max_cmd_sn = (self.max_cmd_sn + slot) & 0xFFFFFFFF
        self.send(ScsiResponse(**{"flags": FINAL, "itt": itt} | fields), data)

    async def answer_management(self, response: int = 0) -> TaskManagementRequest:
        """Take a task management request and answer it."""
        request, _ = await self.receive(TaskManagementRequest)
        self.send(TaskManagementResponse(response=response, itt=request.itt))
        return request


class Stage:
    """A listener that makes a puppet of each connection."""

    def __init__(self, window: int, wishes: Wishes, directory: Directory, *, mute: bool, remote_invalidate: bool):
        self.window = window
        self.wishes = wishes
        self.directory = directory
        self.mute = mute
        self.remote_invalidate = remote_invalidate
        self.arrived: asyncio.Queue[Puppet] = asyncio.Queue()
        self.everyone: list[Puppet] = []
        self.portal = Portal("127.0.0.1")

    async def on_request(self, request: ConnectRequest) -> None:
        puppet = Puppet(self)
        self.everyone.append(puppet)
        await puppet.datamover.accept(request, 128, remote_invalidate=self.remote_invalidate)


@asynccontextmanager
async def puppets(
    window: int = 32,
    wishes: Wishes | None = None,
    directory: Directory | None = None,
    *,
    mute: bool = False,
    remote_invalidate: bool = True,
) -> AsyncIterator[Stage]:
    """Listen on loopback; all connections are closed at the end."""
    stage = Stage(window, wishes or Wishes(), directory or Directory(), mute=mute, remote_invalidate=remote_invalidate)
    listener = await provider().listen("127.0.0.1", 0, stage.on_request)
    stage.portal = Portal(*listener.address)
    try:
        yield stage
    finally:
        await listener.close()
        for puppet in stage.everyone:
            await puppet.datamover.close()


@asynccontextmanager
async def session_with_puppet(
    window: int = 32, wishes: Wishes | None = None, *, remote_invalidate: bool = True, **options: Any
) -> AsyncIterator[tuple[Link, Puppet]]:
    """A session, and the puppet at its other end.  The session is not logged out: the datamover is just closed."""
    async with puppets(window, wishes, remote_invalidate=remote_invalidate) as stage:
        link = await open_session(stage.portal, TARGET, ConnectOptions(**options), provider())
        puppet = await stage.arrived.get()
        try:
            yield link, puppet
        finally:
            await link.datamover.close()
            link.session.connection_terminate_notify(None)  # what a test that failed left is not waited for
