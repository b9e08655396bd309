"""The transports of a target: connections as they come in, before a session knows what carries it."""

from __future__ import annotations

import ipaddress
import socket
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Final

from iser.datamover import IserTarget, TargetDatamover, TargetDatamoverUser
from iser.datamover.tcp import TcpTarget
from iser.errors import ConnectionFailed
from iser.login import TargetAddress, Transport, Wishes
from iser.net import Address, addresses_of
from iser.rdma.api import ConnectRequest
from target.registry import Place

__all__ = ["MAX_DATA_RECEIVES", "TCP_MAX_R2T", "TCP_RECV_LENGTH", "Incoming", "IserIncoming", "TcpIncoming"]

MAX_DATA_RECEIVES: Final = 2048  # receives of one RDMA connection for unsolicited data
TCP_RECV_LENGTH: Final = 256 << 10  # bytes of data segment that we take over TCP
TCP_MAX_R2T: Final = 4  # R2Ts outstanding for one task


class Incoming(ABC):
    """A connection that waits to be accepted at ``place``.  ``local`` and ``remote`` are the ends' addresses."""

    place: Place
    transport: Transport
    local: Address
    remote: Address
    #: What to add to the log line of a login.
    note: str = ""

    @property
    def reached(self) -> Place:
        """``place`` with the address that the initiator used, without a name of an interface."""
        host = self.local[0].partition("%")[0]
        ipv4 = ipaddress.IPv6Address(host).ipv4_mapped if ":" in host else None
        return self.place._replace(address=TargetAddress(str(ipv4) if ipv4 else host))

    @abstractmethod
    def datamover(self, user: TargetDatamoverUser) -> TargetDatamover:
        """The datamover of the connection, which works once it is accepted."""

    @abstractmethod
    async def accept(self, queue_depth: int) -> None:
        """Accept it; the datamover hands up from now on.  Raises ConnectionFailed."""

    @abstractmethod
    async def reject(self) -> None:
        """Refuse it."""

    @abstractmethod
    def wishes(self, base: Wishes) -> Wishes:
        """What to wish for in a login over this transport, made from what is configured for all."""


class IserIncoming(Incoming):
    """An RDMA connection."""

    transport = "iser"

    def __init__(self, request: ConnectRequest, place: Place, *, remote_invalidate: bool, unsolicited: bool) -> None:
        self.place = place
        self.local = request.info.local_address
        self.remote = request.info.remote_address
        self._request = request
        self._remote_invalidate = remote_invalidate
        self._more = MAX_DATA_RECEIVES if unsolicited else 0
        self._datamover: IserTarget

    def datamover(self, user: TargetDatamoverUser) -> TargetDatamover:
        """See :class:`Incoming`."""
        self._datamover = IserTarget(user)
        return self._datamover

    async def accept(self, queue_depth: int) -> None:
        """See :class:`Incoming`."""
        invalidate = self._remote_invalidate
        await self._datamover.accept(self._request, queue_depth, self._more, remote_invalidate=invalidate)
        if self._datamover.remote_invalidate:
            self.note = ", remote invalidation on"

    async def reject(self) -> None:
        """See :class:`Incoming`."""
        await self._request.reject()

    def wishes(self, base: Wishes) -> Wishes:
        """See :class:`Incoming`."""
        return base


class TcpIncoming(Incoming):
    """A TCP connection, plain iSCSI.  Raises ConnectionFailed when the peer has gone already."""

    transport = "tcp"

    def __init__(self, sock: socket.socket, place: Place) -> None:
        self.place = place
        try:
            self.local, self.remote = addresses_of(sock)
        except OSError as error:
            sock.close()
            raise ConnectionFailed("an initiator went away before its connection was accepted") from error
        self._sock = sock
        self._datamover: TcpTarget

    def datamover(self, user: TargetDatamoverUser) -> TargetDatamover:
        """See :class:`Incoming`."""
        self._datamover = TcpTarget(user)
        return self._datamover

    async def accept(self, queue_depth: int) -> None:
        """See :class:`Incoming`."""
        del queue_depth
        self._datamover.accept(self._sock)

    async def reject(self) -> None:
        """See :class:`Incoming`."""
        self._sock.close()

    def wishes(self, base: Wishes) -> Wishes:
        """See :class:`Incoming`.  The initiator decides on digests; markers are refused by the table of keys."""
        return replace(
            base,
            header_digest=("None", "CRC32C"),
            data_digest=("None", "CRC32C"),
            max_recv_data_segment_length=TCP_RECV_LENGTH,
            max_outstanding_r2t=TCP_MAX_R2T,
        )
