"""Fairness: small reads of one session while another keeps 128 large writes on their way, in one target process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from initiator.bench.histogram import Histogram
from tests.benchmark.targets import our_target
from tests.benchmark.worker import Worker, our_initiator

__all__ = ["LIMIT_MS", "Meeting", "measure_fairness"]

LIMIT_MS: Final = 10.0  # what the 99th percentile of the reads may come to
_DEPTH: Final = 128
_WRITE: Final = 1 << 20
_READ: Final = 4096
_DISK: Final = 256 << 20
_HEAD_START: Final = 0.3  # seconds that the neighbour has before the reads begin, and after they end
_TRANSPORTS: Final = {"iSER": "iser", "TCP": "iscsi"}

Say = Callable[[str], object]


@dataclass(slots=True)
class Meeting:
    """Reads over ``reader`` alone and with a neighbour over ``writer``, which writes ``rates`` bytes a second."""

    reader: str
    writer: str
    alone: Histogram = field(default_factory=Histogram)
    beside: Histogram = field(default_factory=Histogram)
    rates: list[float] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        """What is judged."""
        return self.beside.percentile(99) / 1e6

    @property
    def fair(self) -> bool:
        """Whether the neighbour is bearable."""
        return self.p99_ms <= LIMIT_MS

    def to_json(self) -> dict[str, Any]:
        """Histograms of nanoseconds, as in ``docs/benchmarks/schema.md``."""
        return {
            "reader": self.reader, "writer": self.writer, "p99_ms": self.p99_ms, "limit_ms": LIMIT_MS,
            "alone": self.alone.to_json(), "beside": self.beside.to_json(), "writer_bytes_per_second": self.rates,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Meeting:
        """From what :meth:`to_json` gave."""
        alone, beside = (Histogram.from_json(data[name]) for name in ("alone", "beside"))
        return cls(data["reader"], data["writer"], alone, beside, data["writer_bytes_per_second"])


async def measure_fairness(folder: Path, *, seconds: float, repeats: int, say: Say) -> list[Meeting]:
    """Each transport beside each; ``seconds`` of reads for each repeat, alone and with the neighbour."""
    meetings = [Meeting(reader, writer) for reader in _TRANSPORTS for writer in _TRANSPORTS]
    for meeting in meetings:
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(our_target(folder, luns=2, size=_DISK, depth=_DEPTH))
            reader, writer = [await stack.enter_async_context(our_initiator(folder)) for _ in range(2)]
            await reader.ask("connect", url=served.url(_TRANSPORTS[meeting.reader], 0), queue_depth=1)
            await writer.ask("connect", url=served.url(_TRANSPORTS[meeting.writer], 1), queue_depth=_DEPTH)
            for _ in range(repeats):
                await _meet(meeting, reader, writer, seconds)
        say(f"reads over {meeting.reader} beside writes over {meeting.writer}: p99 {meeting.p99_ms:.2f} ms, "
            f"alone {meeting.alone.percentile(99) / 1e6:.2f} ms")  # fmt: skip
    return meetings


async def _meet(meeting: Meeting, reader: Worker, writer: Worker, seconds: float) -> None:
    run = await reader.run(_READ, 1, seconds, latency=True)
    meeting.alone.add(run.histogram)
    async with asyncio.TaskGroup() as group:
        writes = group.create_task(writer.run(_WRITE, _DEPTH, seconds + 2 * _HEAD_START, write=True))
        await asyncio.sleep(_HEAD_START)
        run = await reader.run(_READ, 1, seconds, latency=True)
    meeting.beside.add(run.histogram)
    meeting.rates.append(writes.result().rate)
