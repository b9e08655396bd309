"""Non-blocking TCP sockets: names to addresses, connecting, listening."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from typing import Any, Final

__all__ = [
    "BACKLOG",
    "LOCAL_CONGESTION",
    "Address",
    "SockAddress",
    "addresses_of",
    "bind",
    "dial",
    "display",
    "is_loopback",
    "peer_name",
    "resolve",
    "why_not",
]

BACKLOG: Final = 256  # connections that the kernel keeps while nobody accepts them
#: TCP's congestion control where both ends are on this machine, and nothing is ever lost.  The system's own choice may
#: be one that paces (BBR), by a timer for each portion: that costs a quarter of the throughput of loopback or more.
#: Every Linux has this one, and lets everybody use it.
LOCAL_CONGESTION: Final = b"reno"

Address = tuple[str, int]
SockAddress = tuple[int, tuple[Any, ...]]  # family, and what that family calls an address


def display(address: Address) -> str:
    """``host:port``, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def why_not(error: OSError) -> str:
    """Why a connection could not be made, in the system's words, or in ours where they say what to do."""
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there; start the target, check the port"
    # The loop's own text has only the address once more; a resolver's numbers are not those of the system.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


async def resolve(host: str | None, port: int, *, passive: bool = False) -> list[SockAddress]:
    """Families and socket addresses.  Raises OSError."""
    flags = socket.AI_PASSIVE if passive else 0
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


async def dial(addresses: list[SockAddress], buffer_size: int) -> socket.socket:
    """A non-blocking socket connected to the first address that answers.  Raises the OSError of the last one."""
    loop = asyncio.get_running_loop()
    problem = OSError("the name has no address")
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            size_buffers(sock, buffer_size)
            _spare_pacing(sock, address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem


def bind(family: int, address: tuple[Any, ...], buffer_size: int) -> socket.socket:
    """A non-blocking socket that listens.  Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        size_buffers(sock, buffer_size)
        _spare_pacing(sock, address)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def size_buffers(sock: socket.socket, size: int) -> None:
    """Before connect or listen, as the window scale is agreed in the first packets.  0 leaves it to the kernel."""
    if size:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def is_loopback(host: str) -> bool:
    """Does a numeric address, with or without a scope, name this machine's loopback?"""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _spare_pacing(sock: socket.socket, address: tuple[Any, ...]) -> None:
    """Before connect or listen, whose connections inherit it: later, pacing would stay switched on."""
    if hasattr(socket, "TCP_CONGESTION") and is_loopback(address[0]):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOCAL_CONGESTION)


def addresses_of(sock: socket.socket) -> tuple[Address, Address]:
    """Local and remote.  Raises OSError when the peer has gone."""
    local, remote = sock.getsockname(), sock.getpeername()
    return (local[0], local[1]), (remote[0], remote[1])


def peer_name(sock: socket.socket) -> str:
    """The peer's address for messages."""
    try:
        return display(sock.getpeername()[:2])
    except OSError:
        return "a peer that has gone"
