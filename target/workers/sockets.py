"""The sockets of the portals, which the parent binds and holds, so that they outlive a worker.

Connections that come while a worker is started again wait in its backlog instead of being refused.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from iser.errors import ConnectionFailed, UsageError
from iser.net import bind, display, resolve
from iser.rdma.choose import VERBS, choose
from target.config import PortalConfig, RnicConfig
from target.config.values import Listen
from target.config.workers import PortRange
from target.portal import softiwarp_options

__all__ = ["PortalSockets", "check_provider_of", "free_ports", "open_sockets"]


@dataclass(frozen=True, slots=True)
class PortalSockets:
    """A portal: ``shared`` by all workers, and ``own`` of each, in their order.

    ``listen`` is as configured, ``bound`` the address of the shared socket, ``ports`` those of the workers.
    """

    listen: Listen
    shared: socket.socket
    own: tuple[socket.socket, ...]
    bound: Listen
    ports: tuple[int, ...]

    @classmethod
    def of(cls, listen: Listen, shared: socket.socket, own: Iterable[socket.socket]) -> PortalSockets:
        """Of sockets that listen."""
        host, port = shared.getsockname()[:2]
        bound = Listen(host, port, listen.transport)
        kept = tuple(own)
        return cls(listen, shared, kept, bound, tuple(sock.getsockname()[1] for sock in kept))

    def close(self) -> None:
        """Stop listening, once the workers have done so.  Idempotent."""
        for sock in (self.shared, *self.own):
            sock.close()


async def check_provider_of(name: str, config: PortalConfig, rnic: RnicConfig) -> None:
    """Raises UsageError for a portal that several processes cannot share."""
    if config.listen.transport == "iser" and await choose(rnic.provider, config.listen.host, passive=True) == VERBS:
        raise UsageError(
            f"portal {name}: an RDMA device listens in one process only; "
            "set provider = 'softiwarp' in [rnic], an iscsi:// portal, or workers = 1"
        )


async def open_sockets(
    name: str, config: PortalConfig, rnic: RnicConfig, workers: int, ports: Iterator[int] | None
) -> PortalSockets:
    """Listen at a portal and, beside it, at a port for each worker: the next of ``ports``, or any that is free.

    Raises UsageError and ConnectionFailed with nothing left open.
    """
    await check_provider_of(name, config, rnic)
    host, port, transport = config.listen
    size = softiwarp_options(rnic).socket_buffer if transport == "iser" else 0
    opened: list[socket.socket] = []
    try:
        try:
            family, address = (await resolve(host or None, port, passive=True))[0]
            opened.append(bind(family, address, size))
        except OSError as error:
            raise ConnectionFailed(f"cannot listen on {display((host, port))}: {error.strerror or error}") from error
        for _ in range(workers):
            opened.append(_bind_own(name, family, address, size, ports))  # noqa: PERF401 - so that a failure closes all
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return PortalSockets.of(config.listen, opened[0], opened[1:])


def _bind_own(
    name: str, family: int, address: tuple[object, ...], size: int, ports: Iterator[int] | None
) -> socket.socket:
    host, _, *rest = address
    try:
        if ports is None:
            return bind(family, (host, 0, *rest), size)
        return _bind_next(family, host, rest, size, ports)
    except OSError as error:
        raise ConnectionFailed(f"portal {name}: no port for a worker: {error.strerror or error}") from error
    except StopIteration:
        raise UsageError(f"portal {name}: no port of worker_ports is free for a worker; give more of them") from None


def _bind_next(family: int, host: object, rest: list[object], size: int, ports: Iterator[int]) -> socket.socket:
    while True:
        try:
            return bind(family, (host, next(ports), *rest), size)
        except OSError:
            continue  # in use by others: that is why there is a range


def free_ports(ports: PortRange | None, taken: set[int]) -> Iterator[int] | None:
    """The ports of a range that we do not use ourselves; None for no range."""
    return None if ports is None else (port for port in range(ports.first, ports.last + 1) if port not in taken)
