"""Tests of target.workers.sockets."""

from __future__ import annotations

import socket

import pytest

from iser.errors import ConnectionFailed, UsageError
from target.config import RnicConfig
from target.config.workers import PortRange
from target.workers.sockets import free_ports, open_sockets
from tests.target.workers.site import settings

PORTAL = settings(portal={"p": {"listen": "iscsi://127.0.0.1:0"}}).portal["p"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def test_a_portal_has_a_port_for_all_and_one_for_each() -> None:
    sockets = await open_sockets("p", PORTAL, RnicConfig(), 3, None)
    ports = [sockets.bound.port, *sockets.ports]
    assert len(set(ports)) == 4
    for port in ports:
        socket.create_connection(("127.0.0.1", port)).close()
    assert sockets.bound.transport == "tcp"
    sockets.close()
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


async def test_ports_of_the_range_that_others_have_are_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = taken.getsockname()[1]
        free = free_port()
        sockets = await open_sockets("p", PORTAL, RnicConfig(), 1, iter((used, free)))
        assert sockets.ports == (free,)
        sockets.close()
        with pytest.raises(UsageError, match="no port of worker_ports is free"):
            await open_sockets("p", PORTAL, RnicConfig(), 2, iter((used, free)))
    reused = await open_sockets("p", PORTAL, RnicConfig(), 1, iter((free,)))  # nothing had been left open
    reused.close()


async def test_an_address_that_is_not_ours_is_one_sentence() -> None:
    config = settings(portal={"p": {"listen": "iscsi://192.0.2.1:3260"}}).portal["p"]
    with pytest.raises(ConnectionFailed, match=r"^cannot listen on 192\.0\.2\.1:3260: "):
        await open_sockets("p", config, RnicConfig(), 2, None)


def test_free_ports_are_those_of_the_range_that_we_do_not_use() -> None:
    assert free_ports(None, {1}) is None
    ports = free_ports(PortRange(10, 14), {11, 13, 99})
    assert ports is not None
    assert list(ports) == [10, 12, 14]
