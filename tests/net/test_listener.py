"""Listening."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from iser.errors import ConnectionFailed
from iser.net import TcpListener
from iser.net import listener as module


async def test_each_connection_is_handed_on_until_it_is_closed() -> None:
    got: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = await TcpListener.open("127.0.0.1", 0, got.put_nowait)
    clients = [socket.create_connection(listener.address) for _ in range(module.ACCEPT_BATCH + 3)]
    for _ in clients:
        sock = await asyncio.wait_for(got.get(), 5)
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()
    await listener.close()
    await listener.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(listener.address)
    for client in clients:
        client.close()


async def test_a_port_in_use_is_one_sentence() -> None:
    listener = await TcpListener.open("127.0.0.1", 0, lambda sock: sock.close())
    with pytest.raises(ConnectionFailed, match=r"cannot listen on 127.0.0.1:\d+: Address already in use"):
        await TcpListener.open(*listener.address, lambda sock: sock.close())
    await listener.close()


class Exhausted(socket.socket):
    """Fails to accept once, for want of descriptors."""

    failures = 1

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_without_descriptors_it_tries_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.05)
    sock = Exhausted()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    got: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = TcpListener(sock, got.put_nowait)
    with socket.create_connection(listener.address):
        (await asyncio.wait_for(got.get(), 5)).close()
    await listener.close()
