"""How fast is the software RNIC?  ``python -m iser.rdma.softiwarp.bench``: two processes on loopback, beside raw TCP.

Prints 1 MiB RDMA Write and Read in MB/s against a plain copy of as many bytes over TCP in the same run, the round trip
of a small Send in microseconds beside that of one byte over TCP, and exchanges per second of the shape of a 4 KiB iSER
read (a Send of 76 bytes answered by a Write of 4096 and a Send of 76), 1 and 32 at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from iser.rdma.api import (
    Access,
    ConnectionParams,
    ConnectRequest,
    Device,
    MrType,
    QpCap,
    QueuePair,
    RdmaRead,
    RdmaWrite,
    RegMr,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
    inc_rkey,
)
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions

__all__ = ["main"]

MIB: Final = 1 << 20
REGION: Final = 16 * MIB
COMMAND: Final = 76  # bytes of an iSER control PDU
BLOCK: Final = 4096
RECEIVES: Final = 128
_KEY: Final = struct.Struct(">QI")


class _Buffer:
    """A scatter list of one element."""

    def __init__(self, view: memoryview) -> None:
        self.views = [view]
        self.addresses = [0x10000]
        self.lengths = [len(view)]
        self.length = len(view)


class _End:
    """One end of a connection: receives, and a region the other end may use."""

    def __init__(self, device: Device) -> None:
        self.pd = device.alloc_pd()
        cq = device.create_cq(4096, self._completed)
        self.qp: QueuePair = device.create_qp(self.pd, cq, QpCap(1024, RECEIVES))
        self.over = asyncio.Event()
        self.qp.on_disconnect = lambda reason: self.over.set()
        self.memory = self.pd.alloc_buffer(REGION)
        self.message = self.pd.alloc_buffer(COMMAND)
        for _ in range(RECEIVES):
            buffer = self.pd.alloc_buffer(BLOCK)
            self.qp.post_recv(buffer, buffer)

    def register(self) -> bytes:
        mr = self.pd.alloc_mr(MrType.SG_GAPS, 1)
        mr.map_sg(_Buffer(self.memory))
        self.qp.post_send(RegMr(None, mr, inc_rkey(mr.rkey), Access.REMOTE_WRITE | Access.REMOTE_READ))
        return _KEY.pack(mr.iova, mr.rkey)

    def _completed(self, batch: list[WorkCompletion]) -> None:
        for wc in batch:
            if wc.status is not WcStatus.SUCCESS:
                continue
            if wc.opcode is WcOpcode.RECV:
                assert isinstance(wc.wr_id, memoryview)
                self.qp.post_recv(wc.wr_id, wc.wr_id)
                self.on_message(wc.wr_id, wc.byte_len)
            else:
                self.on_sent(wc)

    def on_message(self, buffer: memoryview, length: int) -> None:
        """A Send arrived."""

    def on_sent(self, wc: WorkCompletion) -> None:
        """A Write or Read of ours is complete."""


class _Server(_End):
    """Answers: ``K`` with its key, ``P`` with nothing but a Send, anything else like a read of 4 KiB."""

    def on_message(self, buffer: memoryview, length: int) -> None:
        kind = bytes(buffer[:1])
        if kind == b"K":
            self.qp.post_send(Send(None, [memoryview(self.register())], signaled=False))
        elif kind == b"P":
            self.qp.post_send(Send(None, [], signaled=False))
        else:
            address, key = _KEY.unpack_from(buffer, 1)
            self.qp.post_send(
                RdmaWrite(None, [self.memory[:BLOCK]], address, key), Send(None, [self.message], signaled=False)
            )


class _Client(_End):
    """Keeps a number of exchanges under way."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.answer = b""
        self._left = 0
        self._under_way = 0
        self._post: list[RdmaWrite | RdmaRead | Send] = []
        self._done = asyncio.Event()

    async def run(self, request: RdmaWrite | RdmaRead | Send, count: int, depth: int) -> float:
        """Seconds for ``count`` exchanges, ``depth`` at a time."""
        self._done.clear()
        self._left, self._under_way, self._post = count - depth, depth, [request]
        start = time.perf_counter()
        for _ in range(depth):
            self.qp.post_send(request)
        await self._done.wait()
        return time.perf_counter() - start

    def on_sent(self, wc: WorkCompletion) -> None:
        self._next()

    def on_message(self, buffer: memoryview, length: int) -> None:
        self.answer = bytes(buffer[:length])
        self._next()

    def _next(self) -> None:
        if self._left > 0:
            self._left -= 1
            self.qp.post_send(*self._post)
        else:
            self._under_way -= 1
            if not self._under_way:
                self._done.set()


async def _serve() -> None:
    """The other process: prints its two ports, serves one connection of each kind, ends with them."""
    done = asyncio.Event()

    async def on_request(request: ConnectRequest) -> None:
        end = _Server(request.device)
        await request.accept(end.qp, ConnectionParams())
        await end.over.wait()
        await end.qp.close()
        done.set()

    raw = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_sink, args=(raw,), daemon=True).start()
    listener = await SoftIwarp().listen("127.0.0.1", 0, on_request)
    sys.stdout.write(f"{listener.address[1]} {raw.getsockname()[1]}\n")
    sys.stdout.flush()
    await done.wait()
    await listener.close()


def _sink(listener: socket.socket) -> None:
    """Read the bytes announced, answer with one; then answer every byte with one."""
    peer, _ = listener.accept()
    buffer = memoryview(bytearray(MIB))
    left = int.from_bytes(peer.recv(8), "big")
    while left:
        left -= peer.recv_into(buffer, min(MIB, left))
    peer.sendall(b".")
    while byte := peer.recv(1):
        peer.sendall(byte)


def _raw_tcp(port: int, total: int, trips: int) -> tuple[float, float]:
    """Seconds to copy ``total`` bytes to the other process over a plain blocking socket, and of one round trip."""
    data = memoryview(bytearray(MIB))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(total.to_bytes(8, "big"))
        start = time.perf_counter()
        for _ in range(total // MIB):
            sock.sendall(data)
        sock.recv(1)
        copied = time.perf_counter() - start
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        for _ in range(trips):
            sock.sendall(b".")
            sock.recv(1)
        return copied, (time.perf_counter() - start) / trips


async def _measure(port: int, raw_port: int, total: int, count: int) -> None:
    provider = SoftIwarp(SoftIwarpOptions(first_fpdu_delay=0))
    ends: list[_Client] = []

    def setup(device: Device) -> QueuePair:
        ends.append(_Client(device))
        return ends[0].qp

    await provider.connect("127.0.0.1", port, setup, ConnectionParams())
    client = ends[0]
    await client.run(Send(None, [memoryview(b"K")], signaled=False), 1, 1)
    address, key = _KEY.unpack(client.answer)
    mib = client.memory[:MIB]
    copied, trip = await asyncio.to_thread(_raw_tcp, raw_port, total * MIB, count)
    raw = total * MIB / copied / 1e6
    _say(f"raw TCP            {raw:8.0f} MB/s")
    for name, request in (
        ("1 MiB RDMA Write", RdmaWrite(None, [mib], address, key, signaled=True)),
        ("1 MiB RDMA Read", RdmaRead(None, [mib], address, key)),
    ):
        await client.run(request, 4, 4)
        rate = total * MIB / await client.run(request, total, 4) / 1e6
        _say(f"{name:<18} {rate:8.0f} MB/s   {rate / raw:.2f} of raw TCP")
    seconds = await client.run(Send(None, [memoryview(b"P")], signaled=False), count, 1)
    _say(f"Send ping-pong     {seconds / count * 1e6:8.1f} us     {trip * 1e6:.1f} us over raw TCP")
    command = bytearray(COMMAND)
    command[1 : 1 + _KEY.size] = client.register()
    for depth in (1, 32):
        seconds = await client.run(Send(None, [memoryview(command)], signaled=False), count, depth)
        _say(f"4 KiB exchange x{depth:<2} {count / seconds:8.0f} /s     {seconds / count * 1e6:.1f} us each")
    await client.qp.close()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] = ()) -> None:
    """Run the benchmark, or with ``serve`` as argument its other process.

    ``arguments``: MiB to copy and number of small exchanges, 2048 and 20000 by default.
    """
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - an optional speed-up

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if arguments[:1] == ["serve"]:
        asyncio.run(_serve())
        return
    total, count = map(int, arguments) if arguments else (2048, 20000)
    command = [sys.executable, "-m", "iser.rdma.softiwarp.bench", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - ourselves
        assert server.stdout is not None
        port, raw_port = server.stdout.readline().split()
        try:
            asyncio.run(_measure(int(port), int(raw_port), total, count))
        except BaseException:
            server.kill()  # it would wait for ever for the end of a connection that we have given up
            raise


if __name__ == "__main__":
    main(sys.argv[1:])
