"""A process with sessions of our initiator, told what to do line by line in JSON: ``python -m tests.benchmark.client``.

Each request is an object with ``do``, the name of a method of :class:`Client`, and its arguments; each answer is an
object, with ``error`` if the request failed.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import random
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any, Final

import initiator
from initiator.bench.histogram import Histogram
from initiator.bench.process import run_loop
from initiator.lun import Lun
from iser.errors import IserError

__all__ = ["Client"]

_PLACES: Final = 1 << 13  # random places that are drawn before the clock runs
_FILL: Final = 1 << 20  # bytes of one transfer of fill()
_GAP: Final = 8  # bytes between the elements of a list: no page list can describe it
_REPORT_LUNS: Final = bytes((0xA0, *[0] * 5, 0, 0, 0x40, 0, 0, 0))  # 16 KiB: 2,047 LUNs


class Client:
    """Sessions, and what is done on them.  Times in seconds unless a name says otherwise."""

    def __init__(self) -> None:
        self._luns: list[Lun] = []
        self._sessions: list[Lun] = []

    async def connect(self, url: str, count: int = 1, **options: Any) -> dict[str, Any]:
        """``count`` sessions more, one after the other."""
        cpu = time.process_time_ns()
        for _ in range(count):
            self._sessions.append(await initiator.connect(url, **options))
        self._luns = list(self._sessions)
        return {"cpu_ns": time.process_time_ns() - cpu}

    async def open_luns(self, count: int) -> dict[str, Any]:
        """Ask for the LUNs that there are, and use 0 to ``count`` - 1 of the first session from now on."""
        first = self._sessions[0]
        cpu = time.process_time_ns()
        await first.execute(_REPORT_LUNS, bytearray(16 << 10))
        self._luns = [await Lun.open(first.link, number, initiator.ConnectOptions()) for number in range(count)]
        return {"cpu_ns": time.process_time_ns() - cpu}

    async def fill(self) -> dict[str, Any]:
        """Write all of the first LUN."""
        lun = self._luns[0]
        data = random.Random(1).randbytes(_FILL)
        for offset in range(0, lun.capacity.size, _FILL):
            await lun.write(offset // lun.capacity.block_size, data)
        return {}

    async def run(
        self, size: int, depth: int, seconds: float, *, write: bool = False, elements: int = 1, latency: bool = False
    ) -> dict[str, Any]:
        """Transfers of ``size`` bytes at random places, ``depth`` at once, over all LUNs in turn.

        Each is a list of ``elements``, which divide it and do not touch each other.  ``cpu_ns`` is of this process.
        """
        histogram = Histogram()
        count = 0
        end = 0.0

        async def work(number: int) -> None:
            nonlocal count
            steps = self._steps(number, depth, size, write=write)
            buffers = _pieces(size, elements)
            samples: list[int] = []
            while time.perf_counter() < end:
                transfer, lba = next(steps)
                if latency:
                    begin = time.perf_counter_ns()
                    await transfer(lba, buffers)
                    samples.append(time.perf_counter_ns() - begin)
                else:
                    await transfer(lba, buffers)
                count += 1
            histogram.add(Histogram.of(samples))

        cpu, begin = time.process_time_ns(), time.perf_counter()
        end = begin + seconds
        await asyncio.gather(*(work(number) for number in range(depth)))
        spent = time.perf_counter() - begin
        cpu = time.process_time_ns() - cpu
        return {"ios": count, "seconds": spent, "cpu_ns": cpu, "histogram": histogram.to_json()}

    def _steps(
        self, number: int, depth: int, size: int, *, write: bool
    ) -> cycle[tuple[Callable[[int, Any], Awaitable[None]], int]]:
        """What worker ``number`` does: the LUNs that are its own, or its share of one, and random places."""
        randomness = random.Random(number)
        mine = self._luns[number::depth] or [self._luns[number % len(self._luns)]]
        steps = []
        for index in range(max(_PLACES // depth, len(mine))):
            lun = mine[index % len(mine)]
            blocks = size // lun.capacity.block_size
            lba = randomness.randrange(lun.capacity.blocks // blocks) * blocks
            steps.append((lun.write if write else lun.read_into, lba))
        return cycle(steps)

    async def close(self) -> dict[str, Any]:
        """End all sessions."""
        sessions, self._sessions, self._luns = self._sessions, [], []
        await asyncio.gather(*(lun.close() for lun in sessions))
        return {}


def _pieces(size: int, elements: int) -> list[memoryview]:
    length = size // elements
    arena = memoryview(mmap.mmap(-1, (length + _GAP) * elements))
    return [arena[start : start + length] for start in range(0, len(arena), length + _GAP)]


async def _answer(client: Client, line: bytes) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(line)
    method: Callable[..., Awaitable[dict[str, Any]]] = getattr(client, request.pop("do"))
    try:
        return await method(**request)
    except IserError as error:
        return {"error": f"{type(error).__name__}: {error}"}


async def _main() -> None:
    client = Client()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        sys.stdout.write(json.dumps(await _answer(client, line)) + "\n")
        sys.stdout.flush()
    await client.close()


if __name__ == "__main__":
    run_loop(_main())
