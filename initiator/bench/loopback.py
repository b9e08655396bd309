"""``iser bench loopback``: throughput against raw TCP in the same run, and small random reads.

Both sides of both transports are two processes on this machine, and every rate moves the same number of bytes.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import initiator
from initiator.loopback import target_process
from initiator.lun import Lun
from iser.errors import ConnectionFailed

__all__ = ["LARGE", "LARGE_DEPTH", "SMALL", "SMALL_DEPTHS", "raw_throughput", "run"]

LARGE: Final = 1 << 20  # bytes
LARGE_DEPTH: Final = 8
SMALL: Final = 4096
SMALL_DEPTHS: Final = (1, 32)
_SOCKET_BUFFER: Final = 4 << 20
_COUNT: Final = 8  # bytes that tell the raw peer how much will come, or how much to send
_DONE: Final = b"!"
RAW_LEAD: Final = 16 << 20  # bytes moved before the clock runs, so that windows are open and memory is touched
_FOOTPRINT: Final = LARGE * (LARGE_DEPTH + 1)  # bytes of memory on either side, as the transfers compared with have


async def run(seconds: float = 2.0) -> None:
    """Measure, ``seconds`` for each rate, and print.  Raises ConnectionFailed when a process does not come up."""
    async with target_process() as url, await initiator.connect(url, queue_depth=max(SMALL_DEPTHS)) as lun:
        for name, direction, one in (("write", b"W", _write), ("read", b"R", _read)):
            count, rate = await _throughput(lun, one, seconds)
            raw = await raw_throughput(direction, count * LARGE)
            _say(
                f"1 MiB {name:<5} QD {LARGE_DEPTH}   {rate / 1e6:8,.0f} MB/s"
                f"   raw TCP {raw / 1e6:8,.0f} MB/s   ratio {rate / raw:.2f}"
            )
        for depth in SMALL_DEPTHS:
            rate = await _iops(lun, depth, seconds)
            _say(f"4 KiB random read QD {depth:<2} {rate:8,.0f} IOPS   {1e6 * depth / rate:8.1f} us each")


async def _write(lun: Lun, lba: int, buffer: bytearray) -> None:
    await lun.write(lba, buffer)


async def _read(lun: Lun, lba: int, buffer: bytearray) -> None:
    await lun.read_into(lba, buffer)


async def _throughput(
    lun: Lun, one: Callable[[Lun, int, bytearray], Awaitable[None]], seconds: float
) -> tuple[int, float]:
    """Commands done, and bytes in a second."""
    blocks = LARGE // lun.capacity.block_size
    places = lun.capacity.blocks // blocks
    count = 0
    end = time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal count
        buffer = bytearray(LARGE)
        while time.perf_counter() < end:
            count += 1
            await one(lun, count % places * blocks, buffer)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(LARGE_DEPTH)))
    return count, count * LARGE / (time.perf_counter() - start)


async def _iops(lun: Lun, depth: int, seconds: float) -> float:
    blocks = SMALL // lun.capacity.block_size
    places = lun.capacity.blocks // blocks
    count = 0
    end = time.perf_counter() + seconds

    async def worker(seed: int) -> None:
        nonlocal count
        randrange = random.Random(seed).randrange  # noqa: S311 - the same places in every run
        buffer = bytearray(SMALL)
        while time.perf_counter() < end:
            await lun.read_into(randrange(places) * blocks, buffer)
            count += 1

    start = time.perf_counter()
    await asyncio.gather(*(worker(seed) for seed in range(depth)))
    return count / (time.perf_counter() - start)


# Raw TCP


async def raw_throughput(direction: bytes, length: int, *, congestion: bytes = b"") -> float:
    """Bytes in a second of a plain TCP connection that moves ``length`` bytes in the same direction.

    ``congestion`` is TCP's congestion control at both ends, the system's choice if it is empty.
    """
    async with _raw_process(congestion) as port:
        return await asyncio.to_thread(_raw_client, port, direction, length, congestion)


@asynccontextmanager
async def _raw_process(congestion: bytes) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "initiator.bench.loopback", congestion, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        line = await process.stdout.readline()
        if not line.strip().isdigit():
            raise ConnectionFailed("the raw TCP process ended before it listened; its messages tell why")
        yield int(line)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _raw_client(port: int, direction: bytes, length: int, congestion: bytes) -> float:
    buffer = bytearray(_FOOTPRINT)
    with socket.socket() as sock:
        _choose(sock, congestion)
        sock.connect(("127.0.0.1", port))
        _tune(sock)
        _raw_move(sock, buffer, direction, RAW_LEAD)
        start = time.perf_counter()
        _raw_move(sock, buffer, direction, length)
        return length / (time.perf_counter() - start)


def _raw_move(sock: socket.socket, buffer: bytearray, direction: bytes, length: int) -> None:
    sock.sendall(direction + length.to_bytes(_COUNT, "big"))
    if direction == b"R":
        _take(sock, buffer, length)
    else:
        _give(sock, buffer, length)
        _take(sock, bytearray(len(_DONE)), len(_DONE))


def _raw_server(congestion: bytes) -> None:
    """Serve one connection: take or give as many bytes as it asks for, each time it asks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _choose(listener, congestion)
        _say(str(listener.getsockname()[1]))
        sock, _ = listener.accept()
        with sock:
            _tune(sock)
            request, buffer = bytearray(1 + _COUNT), bytearray(_FOOTPRINT)
            while sock.recv(1, socket.MSG_PEEK):  # until the client closes
                _take(sock, request, len(request))
                length = int.from_bytes(request[1:], "big")
                if request[:1] == b"R":
                    _give(sock, buffer, length)
                else:
                    _take(sock, buffer, length)
                    sock.sendall(_DONE)


def _choose(sock: socket.socket, congestion: bytes) -> None:
    """Before there is a connection: what pacing has begun would go on."""
    if congestion:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion)


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)


def _give(sock: socket.socket, buffer: bytearray, length: int) -> None:
    view = memoryview(buffer)
    at = 0
    while length:
        sent = sock.send(view[at : at + min(length, LARGE)])
        length -= sent
        at = (at + sent) % (len(view) - LARGE + 1)


def _take(sock: socket.socket, buffer: bytearray, length: int) -> None:
    view = memoryview(buffer)
    at = 0
    while length:
        got = sock.recv_into(view[at : at + min(length, LARGE)])
        if not got:
            raise ConnectionFailed("the raw TCP peer closed the connection early")
        length -= got
        at += got
        if len(view) > LARGE:
            at %= len(view) - LARGE + 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _raw_server(os.fsencode(sys.argv[1]))
