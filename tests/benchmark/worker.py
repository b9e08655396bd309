"""Our initiator in a process of its own, as seen from the one that measures."""

from __future__ import annotations

import json
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from initiator.bench.histogram import Histogram
from tests.benchmark.host import BenchmarkError
from tests.benchmark.process import PLAIN, Python, said, started

__all__ = ["Run", "Worker", "our_initiator"]


_CLIENT: Final = Path(__file__).with_name("client.py")


class Run:
    """What a slice of transfers came to."""

    def __init__(self, size: int, answer: dict[str, Any]) -> None:
        self.size = size
        self.ios: int = answer["ios"]
        self.seconds: float = answer["seconds"]
        self.cpu_ns: int = answer["cpu_ns"]
        self.histogram = Histogram.from_json(answer["histogram"])

    @property
    def iops(self) -> float:
        """Transfers in a second."""
        return self.ios / self.seconds

    @property
    def rate(self) -> float:
        """Bytes in a second."""
        return self.iops * self.size


class Worker:
    """Requests for :class:`tests.benchmark.client.Client`; each raises BenchmarkError when it fails."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the client; gives its answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        line = await self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": said(self._log)}
        if "error" in answer:
            raise BenchmarkError(f"our initiator: {do}: {answer['error']}")
        return answer

    async def run(self, size: int, depth: int, seconds: float, **arguments: Any) -> Run:
        """A slice of transfers."""
        return Run(size, await self.ask("run", size=size, depth=depth, seconds=seconds, **arguments))


@asynccontextmanager
async def our_initiator(folder: Path, python: Python = PLAIN) -> AsyncIterator[Worker]:
    """The process, until the block ends."""
    log = folder / "initiator.log"
    async with started(python.command(str(_CLIENT)), log, environment=python.environment) as process:
        yield Worker(process, log)
