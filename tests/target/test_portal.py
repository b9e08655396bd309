"""Tests of target.portal: it listens where it was told, and hands itself over with what comes in."""

from __future__ import annotations

import asyncio
import socket

import pytest

from iser.errors import ConnectionFailed
from iser.rdma.api import ConnectRequest
from target.config import PortalConfig, RnicConfig
from target.portal import Portal, PortalUser
from tests.target.peer import Peer, until


class User:
    def __init__(self) -> None:
        self.seen: list[Portal] = []
        self.user = PortalUser(self._connect_request, self._tcp_connection)

    async def _connect_request(self, portal: Portal, request: ConnectRequest) -> None:
        self.seen.append(portal)
        await request.reject()

    def _tcp_connection(self, portal: Portal, sock: socket.socket) -> None:
        self.seen.append(portal)
        sock.close()


def settings(listen: str, group: int = 1) -> PortalConfig:
    return PortalConfig.model_validate({"listen": listen, "group": group})


async def test_tcp() -> None:
    user = User()
    portal = await Portal.open("p", settings("iscsi://127.0.0.1:0", 3), RnicConfig(), None, user.user)
    assert (portal.place.name, portal.place.group) == ("p", 3)
    assert (portal.bound.host, portal.bound.transport) == ("127.0.0.1", "tcp")
    reader, writer = await asyncio.open_connection(portal.bound.host, portal.bound.port)
    assert await reader.read() == b""
    writer.close()
    assert user.seen == [portal]
    await portal.close()
    await portal.close()


async def test_iser() -> None:
    user = User()
    portal = await Portal.open("p", settings("iser://127.0.0.1:0"), RnicConfig(), None, user.user)
    assert portal.bound.transport == "iser"
    with pytest.raises(ConnectionFailed):
        await Peer().connect(portal.bound.port)
    await until(lambda: user.seen)
    assert user.seen == [portal]
    await portal.close()
    with pytest.raises(ConnectionFailed):
        await Portal.open("q", settings("iser://192.0.2.1:3260"), RnicConfig(provider="softiwarp"), None, user.user)


@pytest.mark.parametrize("scheme", ["iscsi", "iser"])
async def test_sockets_that_listen_already_are_taken_over(scheme: str) -> None:
    user = User()
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for sock in sockets:
        sock.setblocking(False)
    ports = [sock.getsockname()[1] for sock in sockets]
    portal = Portal.adopt("p", settings(f"{scheme}://127.0.0.1:0"), RnicConfig(), sockets, user.user)
    assert portal.bound.port == ports[0]
    for number, port in enumerate(ports, 1):
        if scheme == "iser":
            with pytest.raises(ConnectionFailed):
                await Peer().connect(port)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()
        assert user.seen == [portal] * number
    await portal.close()
    assert [sock.fileno() for sock in sockets] == [-1, -1]
