"""Connections as they come in: what each transport wishes for, and how it is accepted and refused."""

from __future__ import annotations

import asyncio
import socket

import pytest

from iser.datamover.tcp import TcpTarget
from iser.errors import ConnectionFailed
from iser.login import TargetAddress, Wishes
from iser.net import TcpListener
from target.registry import Place
from target.transport import TCP_MAX_R2T, TCP_RECV_LENGTH, TcpIncoming
from tests.datamover.tcp.ends import User
from tests.target.peer import settled

HERE = Place("here", 1)


async def accepted() -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection, ours first."""
    queue: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = await TcpListener.open("127.0.0.1", 0, queue.put_nowait)
    theirs = socket.create_connection(listener.address)
    ours = await queue.get()
    await listener.close()
    return ours, theirs


async def test_over_tcp_digests_are_the_initiators_choice_and_lengths_are_ours() -> None:
    ours, theirs = await accepted()
    incoming = TcpIncoming(ours, HERE)
    wishes = incoming.wishes(Wishes(max_burst_length=65536, initial_r2t=False))
    assert set(wishes.header_digest) == set(wishes.data_digest) == {"None", "CRC32C"}
    assert wishes.max_recv_data_segment_length == TCP_RECV_LENGTH
    assert wishes.max_outstanding_r2t == TCP_MAX_R2T
    assert (wishes.max_burst_length, wishes.initial_r2t) == (65536, False)
    assert (incoming.transport, incoming.place) == ("tcp", HERE)
    assert incoming.remote == theirs.getsockname()
    assert incoming.local == theirs.getpeername()
    await incoming.reject()
    assert theirs.recv(1) == b""
    theirs.close()


async def test_an_accepted_connection_has_a_datamover() -> None:
    ours, theirs = await accepted()
    incoming = TcpIncoming(ours, HERE)
    datamover = incoming.datamover(User())
    await incoming.accept(8)
    assert isinstance(datamover, TcpTarget)
    assert datamover.name == "{}:{}".format(*theirs.getsockname())
    theirs.close()
    await datamover.close()


async def test_an_initiator_that_has_gone_already_is_one_sentence() -> None:
    ours, theirs = await accepted()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    await settled()
    with pytest.raises(ConnectionFailed, match="went away before"):
        TcpIncoming(ours, HERE)
    assert ours.fileno() == -1


@pytest.mark.parametrize(
    ("local", "reached"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
async def test_the_address_that_was_reached_is_one_that_an_initiator_can_use(local: str, reached: str) -> None:
    ours, theirs = await accepted()
    incoming = TcpIncoming(ours, HERE)
    incoming.local = (local, 3260)
    assert incoming.reached == HERE._replace(address=TargetAddress(reached))
    ours.close()
    theirs.close()
