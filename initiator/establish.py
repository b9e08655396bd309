"""From an address to a session in full-feature phase: connect, log in, follow redirections; and discovery."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from typing import Final

from initiator.credentials import make_auth
from initiator.options import ConnectOptions, default_initiator_name
from initiator.requests import Follow
from initiator.session import Session
from initiator.url import Portal
from iser.datamover import IserInitiator, IserInitiatorOptions
from iser.datamover.tcp import TcpInitiator
from iser.errors import ConnectionFailed, IserError, LoginError
from iser.login import (
    ALL_TARGETS,
    InitiatorLogin,
    InitiatorLoginConfig,
    LoginResult,
    TargetRecord,
    TextRequester,
    Wishes,
    parse_targets,
)
from iser.net import busy_poll, spare_processors
from iser.pdu import Pdu
from iser.rdma import choose
from iser.rdma.api import Provider
from iser.rdma.softiwarp import SoftIwarpOptions
from iser.sg import Planner

__all__ = ["DISCOVERY_DEPTH", "MAX_REDIRECTS", "Link", "make_provider", "open_session", "send_targets", "settle_time"]

MAX_REDIRECTS: Final = 3
TCP_RECV_LENGTH: Final = 256 << 10  # bytes of data segment that we take over TCP
TCP_BURST: Final = 1 << 20  # bytes of a sequence: fewer round trips for large writes
TCP_MAX_R2T: Final = 8
DISCOVERY_DEPTH: Final = 8  # a discovery session has one request outstanding at a time
LIO_ALIAS: Final = "LIO Target"  # what LIO calls itself in the login
LIO_SETTLE: Final = 0.3  # seconds; 0.2 was enough on slow machines
TGT_SETTLE: Final = 0.05
_NO_DIGEST: Final = ("None",)
_DIGEST: Final = ("CRC32C",)
_ISID_RANDOM: Final = 0x80  # the form of an ISID whose next bytes are random (RFC 7143 section 11.12.5)


@dataclass(frozen=True, slots=True)
class Link:
    """A session in full-feature phase, the datamover under it, and the portal that it ended up at."""

    session: Session
    datamover: IserInitiator | TcpInitiator
    portal: Portal

    @property
    def planner(self) -> Planner | None:
        """What registers memory; over TCP nothing has to be."""
        return self.datamover.planner if isinstance(self.datamover, IserInitiator) else None


async def make_provider(portal: Portal, options: ConnectOptions) -> Provider:
    """The RDMA provider that ``options`` ask for, or that reaches ``portal``.  Raises ResourceError."""
    softiwarp = SoftIwarpOptions(crc=options.crc, segment=options.segment)
    return await choose.make_provider(options.provider, portal.host, softiwarp)


async def open_session(portal: Portal, target: str, options: ConnectOptions, provider: Provider | None = None) -> Link:
    """Connect to ``portal`` and log in to ``target``, or for discovery where that is "".

    All of it within ``options.login_timeout``.  Raises ConnectionFailed, LoginError, NegotiationError,
    RemoteProtocolError, ConnectionLost; nothing is left open then.
    """
    try:
        async with asyncio.timeout(options.login_timeout):
            for _ in range(MAX_REDIRECTS + 1):
                login = InitiatorLogin(_login_config(portal, target, options), make_auth(options))
                try:
                    return await _attempt(provider, portal, login, options, discovery=not target)
                except LoginError:
                    if login.redirect is None:
                        raise
                    portal = Portal(login.redirect.host, login.redirect.port, portal.transport)
    except TimeoutError:
        over_tcp = portal.transport == "tcp"
        kind, other = ("iSCSI", "iser:// is for iSER") if over_tcp else ("iSER", "iscsi:// is for TCP")
        raise ConnectionFailed(
            f"{portal} did not complete the login within {options.login_timeout:g} seconds;"
            f" check that an {kind} target runs there ({other}), or raise login_timeout"
        ) from None
    raise ConnectionFailed(f"the target redirected the login more than {MAX_REDIRECTS} times, last to {portal}")


def _login_config(portal: Portal, target: str, options: ConnectOptions) -> InitiatorLoginConfig:
    wishes = Wishes(immediate_data=options.immediate_data)
    if portal.transport == "tcp":
        wishes = replace(
            wishes,
            header_digest=_DIGEST if options.header_digest else _NO_DIGEST,
            data_digest=_DIGEST if options.data_digest else _NO_DIGEST,
            max_recv_data_segment_length=TCP_RECV_LENGTH,
            max_burst_length=TCP_BURST,
            max_outstanding_r2t=TCP_MAX_R2T,
        )
    return InitiatorLoginConfig(
        initiator_name=options.initiator_name or default_initiator_name(),
        isid=bytes((_ISID_RANDOM,)) + os.urandom(5),
        target_name=target,
        discovery=not target,
        transport=portal.transport,
        wishes=wishes,
    )


async def _attempt(
    provider: Provider | None, portal: Portal, login: InitiatorLogin, options: ConnectOptions, *, discovery: bool
) -> Link:
    depth = DISCOVERY_DEPTH if discovery else options.queue_depth
    session = Session(login, depth, options.timeout, immediate_data=options.immediate_data)
    datamover: IserInitiator | TcpInitiator
    if portal.transport == "tcp":
        datamover = await TcpInitiator.connect(portal.host, portal.port, session, options.login_timeout)
    else:
        datamover = await _connect_iser(provider or await make_provider(portal, options), portal, session, options)
    try:
        await session.log_in(datamover)
    except BaseException as error:
        if isinstance(error, IserError) and portal.transport == "iser":  # a TCP target notices the connection's end
            await session.break_off_login()
        await datamover.close()
        raise
    if not discovery and portal.transport == "iser":
        await asyncio.sleep(settle_time(session.login))
    if options.busy_poll_us and spare_processors(1):
        poll = busy_poll()
        poll.window = max(poll.window, options.busy_poll_us / 1e6)
    return Link(session, datamover, portal)


def settle_time(login: LoginResult) -> float:
    """Seconds to wait after a login before the first command, for targets that are not ready when they say so.

    tgt enters the full-feature phase only when its final Login Response has been sent, and closes the connection on a
    command before that; it is known by a window of one command.  LIO of Linux 6.1 installs the negotiated parameters
    after that response, and a write that overtakes them can hang its kernel.
    """
    if login.params.target_alias == LIO_ALIAS:
        return LIO_SETTLE
    return TGT_SETTLE if login.max_cmd_sn == login.cmd_sn else 0.0


async def _connect_iser(provider: Provider, portal: Portal, session: Session, options: ConnectOptions) -> IserInitiator:
    return await IserInitiator.connect(
        provider,
        portal.host,
        portal.port,
        session,
        IserInitiatorOptions(
            queue_depth=session.queue_depth,
            remote_invalidate=options.remote_invalidate,
            strategy=options.strategy,
            no_bounce=options.no_bounce,
            pool_size=options.pool_size,
        ),
        options.login_timeout,
    )


async def send_targets(session: Session, timeout: float, name: str = ALL_TARGETS) -> list[TargetRecord]:
    """Ask a session what targets there are.  Raises TextError, CommandTimeout, ConnectionLost."""
    requesters: list[TextRequester] = []

    def begin(itt: int) -> tuple[Pdu, Follow]:
        requester = TextRequester([("SendTargets", name)], itt=itt, immediate=True)
        requesters.append(requester)
        return requester.start(), requester.receive

    await session.text(begin, timeout)
    return parse_targets(requesters[0].pairs)
