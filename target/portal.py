"""A portal that is open: where it was told to listen, what listens there, and the place that it is to a login."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

from iser.net import TcpListener
from iser.rdma.api import ConnectRequest, Listener, Provider
from iser.rdma.choose import make_provider
from iser.rdma.softiwarp import SoftIwarpOptions
from target.config import PortalConfig, RnicConfig
from target.config.values import Listen
from target.registry import Place

__all__ = ["Portal", "PortalUser"]


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
    _listener: Listener | TcpListener | None = None

    @classmethod
    async def open(
        cls, name: str, config: PortalConfig, rnic: RnicConfig, provider: Provider | None, user: PortalUser
    ) -> Portal:
        """Listen; ``provider`` None has one chosen.  Raises ConnectionFailed or ResourceError."""
        self = cls(Place(name, config.group), config.listen)
        host, port, transport = config.listen
        if transport == "tcp":
            self._listener = await TcpListener.open(host, port, partial(user.tcp_connection, self))
        else:
            used = provider or await _provider(rnic, host)
            self._listener = await used.listen(host, port, partial(user.connect_request, self))
        return self

    @property
    def bound(self) -> Listen:
        """The address as bound, with its transport."""
        assert self._listener
        return Listen(*self._listener.address, self.listen.transport)

    async def close(self) -> None:
        """Stop listening; connections stay.  Idempotent."""
        assert self._listener
        await self._listener.close()


async def _provider(rnic: RnicConfig, host: str) -> Provider:
    """What serves the portal at ``host``.  Raises ResourceError."""
    segment = cast('int | Literal["auto", "mss"]', rnic.segment)  # checked when the configuration was read
    softiwarp = SoftIwarpOptions(crc="auto" if rnic.crc is None else rnic.crc, segment=segment)
    return await make_provider(rnic.provider, host, softiwarp, passive=True)
