"""The stream on real sockets: echo, back pressure, stalled peers, every way to end."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence

import pytest
import uvloop

from iser.errors import ConnectionLost, IserError
from iser.net import Stream, StreamTimes
from iser.net import stream as module

QUICK = StreamTimes(stall=0.15, linger=0.1)


class Echo:
    """Sends back what it gets.  A message is 4 bytes long."""

    def __init__(self, *, repeat: int = 1, limit: int = 1 << 20) -> None:
        self.ends: list[IserError | None] = []
        self.taken = 0
        self._buffer = memoryview(bytearray(1 << 16))
        self._out = bytearray()
        self._repeat = repeat
        self._limit = limit
        self._lent = 0

    def get_buffers(self) -> list[memoryview]:
        return [self._buffer[:10], self._buffer[10:]]

    def received(self, count: int) -> None:
        self.taken += count
        self._out += bytes(self._buffer[:count]) * self._repeat

    def outgoing(self) -> Sequence[bytes]:
        self._lent = len(self._out)
        return [bytes(self._out)] if self._out else []

    def sent(self, count: int) -> int:
        del self._out[:count]
        self._lent -= count
        return self._lent

    @property
    def unsent(self) -> int:
        return self._lent

    @property
    def pending(self) -> bool:
        return bool(self._out)

    @property
    def congested(self) -> bool:
        return len(self._out) > self._limit

    @property
    def mid_message(self) -> bool:
        return bool(self.taken % 4)

    def say(self, data: bytes) -> None:
        self._out += data


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def pair(machine: Echo, times: StreamTimes = QUICK) -> tuple[Stream, socket.socket]:
    ours, theirs = connected()
    stream = Stream(ours, machine, machine.ends.append, times)
    stream.start()
    return stream, theirs


async def read(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count and (part := await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 5)):
        data += part
    return data


async def ended(machine: Echo) -> IserError | None:
    for _ in range(400):
        if machine.ends:
            return machine.ends[0]
        await asyncio.sleep(0.005)
    raise AssertionError("the stream did not end")


async def test_it_reads_and_writes() -> None:
    machine = Echo()
    stream, peer = pair(machine)
    peer.send(b"ping")
    assert await read(peer, 4) == b"ping"
    machine.say(b"unasked")
    stream.wake()
    stream.wake()
    assert await read(peer, 7) == b"unasked"
    await stream.close()
    assert machine.ends == [None]
    peer.close()


async def test_the_peers_end_is_ours() -> None:
    machine = Echo()
    _, peer = pair(machine)
    peer.send(b"ping")
    peer.shutdown(socket.SHUT_WR)
    assert await ended(machine) is None
    peer.close()


async def test_an_end_inside_a_message_is_a_loss() -> None:
    machine = Echo()
    _, peer = pair(machine)
    peer.send(b"pin")
    await asyncio.sleep(0.02)
    peer.close()
    assert isinstance(await ended(machine), ConnectionLost)


async def test_finish_sends_what_is_queued_and_waits_for_the_peer() -> None:
    machine = Echo()
    stream, peer = pair(machine)
    machine.say(b"last words")
    stream.finish()
    assert await read(peer, 100) == b"last words"
    assert machine.ends == []
    peer.close()
    await stream.close()
    assert machine.ends == [None]


async def test_finish_with_a_reason_tells_it_at_the_end() -> None:
    machine = Echo()
    stream, peer = pair(machine)
    why = ConnectionLost("because")
    machine.say(b"sorry")
    stream.finish(why)
    stream.finish(None)
    assert await read(peer, 5) == b"sorry"
    assert await ended(machine) is why  # the peer never closes: the linger time ends it
    peer.close()


async def test_abort_ends_at_once() -> None:
    machine = Echo()
    stream, peer = pair(machine)
    why = ConnectionLost("because")
    stream.abort(why)
    assert machine.ends == []  # never inside the call
    assert await read(peer, 1) == b""
    assert await ended(machine) is why
    await stream.close()
    assert machine.ends == [why]
    peer.close()


async def test_a_peer_that_does_not_read_is_not_read_from_and_ends_stalled() -> None:
    machine = Echo(repeat=64, limit=1 << 16)
    _, peer = pair(machine)
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.sock_sendall(peer, bytes(64 << 20)), 0.1)
    assert machine.taken <= 2 * module.READ_BUDGET
    error = await ended(machine)
    assert isinstance(error, ConnectionLost)
    assert "has not read for" in str(error)
    peer.close()


async def test_a_slow_reader_is_waited_for() -> None:
    machine = Echo(repeat=64, limit=1 << 16)
    stream, peer = pair(machine)
    loop = asyncio.get_running_loop()
    sender = asyncio.create_task(loop.sock_sendall(peer, bytes(256 << 10)))
    got = 0
    while got < 64 * (256 << 10):
        got += len(await read(peer, 1))
    await sender
    assert machine.ends == []
    peer.close()
    await stream.close()


async def test_close_does_not_wait_for_a_peer_that_does_not_read() -> None:
    machine = Echo()
    stream, peer = pair(machine, StreamTimes())
    machine.say(bytes(32 << 20))
    await asyncio.wait_for(stream.close(timeout=0.1), 5)
    assert len(machine.ends) == 1
    peer.close()


async def test_a_reset_is_a_loss() -> None:
    machine = Echo()
    sock, peer = connected()
    Stream(sock, machine, machine.ends.append).start()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    assert "broke" in str(await ended(machine))


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_reset_right_behind_data_ends_it(factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """uvloop tells of both at once."""

    async def run() -> None:
        machines = [Echo(repeat=0) for _ in range(5)]
        streams = []
        for machine in machines:
            stream, peer = pair(machine)
            streams.append(stream)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await asyncio.sleep(0.01)
            peer.send(b"ping")
            peer.close()  # before the loop turns
        for machine in machines:
            assert isinstance(await ended(machine), ConnectionLost)
        assert [machine.taken for machine in machines] == [4] * 5

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_look_finds_what_is_there_and_does_not_go_on_looking(
    factory: Callable[[], asyncio.AbstractEventLoop] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_DELAY", 0.01)

    async def run() -> None:
        machine = Echo()
        stream, peer = pair(machine)
        for turn in range(3):
            peer.send(b"ping")
            assert await read(peer, 4) == b"ping"
            await asyncio.sleep(0.02 * turn)
        await asyncio.sleep(0.05)
        assert stream._look is None
        peer.close()
        assert await ended(machine) is None

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
