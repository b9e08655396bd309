"""A portal that is open: where it was told to listen, what listens there, and the place that it is to a login."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, cast

from iser.net import TcpListener
from iser.rdma.api import ConnectRequest, Listener, Provider
from iser.rdma.choose import make_provider
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions, SoftListener
from target.config import PortalConfig, RnicConfig
from target.config.values import Listen
from target.registry import Place

__all__ = ["Portal", "PortalUser", "softiwarp_options"]


@dataclass(frozen=True, slots=True)
class PortalUser:
    """What a portal does with what comes in, over RDMA and over TCP."""

    connect_request: Callable[[Portal, ConnectRequest], Awaitable[None]]
    tcp_connection: Callable[[Portal, socket.socket], None]


@dataclass(slots=True, eq=False)
class Portal:
    """Made by :meth:`open`.  ``place`` may change its group while the portal is open."""

    place: Place
    listen: Listen
    _listeners: list[Listener | TcpListener] = field(default_factory=list)

    @classmethod
    async def open(
        cls, name: str, config: PortalConfig, rnic: RnicConfig, provider: Provider | None, user: PortalUser
    ) -> Portal:
        """Listen; ``provider`` None has one chosen.  Raises ConnectionFailed or ResourceError."""
        self = cls(Place(name, config.group), config.listen)
        host, port, transport = config.listen
        if transport == "tcp":
            self._listeners.append(await TcpListener.open(host, port, partial(user.tcp_connection, self)))
        else:
            used = provider or await _provider(rnic, host)
            self._listeners.append(await used.listen(host, port, partial(user.connect_request, self)))
        return self

    @classmethod
    def adopt(
        cls, name: str, config: PortalConfig, rnic: RnicConfig, sockets: Sequence[socket.socket], user: PortalUser
    ) -> Portal:
        """Take what comes in at ``sockets``, which listen already; the first is the portal's own.

        RDMA is softiwarp's here, as only that is made of sockets.
        """
        self = cls(Place(name, config.group), config.listen)
        if config.listen.transport == "tcp":
            self._listeners += [TcpListener(sock, partial(user.tcp_connection, self)) for sock in sockets]
        else:
            rnic_of_portal = SoftIwarp(softiwarp_options(rnic))
            accept = partial(user.connect_request, self)
            self._listeners += [SoftListener(rnic_of_portal, sock, accept) for sock in sockets]
        return self

    @property
    def bound(self) -> Listen:
        """The address as bound, with its transport."""
        return Listen(*self._listeners[0].address, self.listen.transport)

    async def close(self) -> None:
        """Stop listening; connections stay.  Idempotent."""
        for listener in self._listeners:
            await listener.close()


def softiwarp_options(rnic: RnicConfig) -> SoftIwarpOptions:
    """The embedded RNIC's options as configured."""
    segment = cast('int | Literal["auto", "mss"]', rnic.segment)  # checked when the configuration was read
    return SoftIwarpOptions(crc="auto" if rnic.crc is None else rnic.crc, segment=segment)


async def _provider(rnic: RnicConfig, host: str) -> Provider:
    """What serves the portal at ``host``.  Raises ResourceError."""
    return await make_provider(rnic.provider, host, softiwarp_options(rnic), passive=True)
