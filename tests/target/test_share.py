"""Tests of target.share: a server with one serves its own part, and knows where the rest is."""

from __future__ import annotations

import socket

import pytest

from initiator.establish import open_session, send_targets
from initiator.options import ConnectOptions
from initiator.url import Portal
from iser.errors import ConnectionFailed
from target.access import AccessPolicy
from target.registry import Elsewhere
from target.server import TargetServer
from target.share import Share
from tests.target.peer import TARGET, config

OTHER = "iqn.2026-11.test:other"


async def test_a_server_listens_where_it_is_told_and_sends_others_on() -> None:
    shared, own = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    for sock in (shared, own):
        sock.setblocking(False)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = nobody.getsockname()[1]
    port = shared.getsockname()[1]
    share = Share(AccessPolicy(), {OTHER: Elsewhere(frozenset(), {"p": gone})}, {"p": (shared, own)}, range(100, 110))
    server = await TargetServer.start(config(portal={"p": {"listen": "iscsi://127.0.0.1:0"}}), share=share)
    try:
        assert server.addresses == [("127.0.0.1", port)]
        for each in (port, own.getsockname()[1]):
            link = await open_session(Portal("127.0.0.1", each, "tcp"), TARGET, ConnectOptions())
            assert set(server.registry.sessions) <= set(share.numbers)
            await link.session.close()
        link = await open_session(Portal("127.0.0.1", port, "tcp"), "", ConnectOptions())
        records = await send_targets(link.session, 10)
        await link.session.close()
        assert {record.name: {address.port for address in record.addresses} for record in records} == {
            TARGET: {port},
            OTHER: {port},
        }
        with pytest.raises(ConnectionFailed, match=str(gone)):
            await open_session(Portal("127.0.0.1", port, "tcp"), OTHER, ConnectOptions())
    finally:
        await server.close(drain=0)
