"""Growth: what LUNs, sessions, elements of a list and commands at once add to the cost of an I/O, over both transports.

Every number of LUNs or sessions gets a target that was just started.  Costs of an I/O are of 4 KiB random reads over
all the LUNs or sessions in turn; lists are of 1 MiB, cut into so many elements that do not touch each other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.benchmark.series import Series
from tests.benchmark.targets import Served, our_target
from tests.benchmark.usage import cpu_seconds, memory
from tests.benchmark.worker import Run, Worker, our_initiator

__all__ = ["COUNTS", "DEPTHS", "ELEMENTS", "TRANSPORTS", "measure_growth"]

COUNTS: Final = (1, 3, 10, 30, 100, 300, 1000)
ELEMENTS: Final = (1, 4, 16, 64, 256, 512, 1024, 2048, 4096)
DEPTHS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: The scheme of URLs, by what a line is called.
TRANSPORTS: Final = {"iSER": "iser", "TCP": "iscsi"}
_SMALL: Final = 4096
_LARGE: Final = 1 << 20
_DEPTH: Final = 32
_LUN_SIZE: Final = 1 << 20
_DISK: Final = 64 << 20
_CLOCK_FROM: Final = 100  # sessions below which the clock of processor time and the size of a page are too coarse

Say = Callable[[str], object]


class _Book:
    """The series so far, each begun when its first point comes."""

    def __init__(self, against: str) -> None:
        self.against = against
        self.series: dict[tuple[str, str], Series] = {}

    def add(self, line: str, what: str, unit: str, x: float, y: float) -> None:
        """A point of the series of ``line`` and ``what``."""
        key = line, what
        if key not in self.series:
            self.series[key] = Series(self.against, line, what, unit)
        self.series[key].add(x, y)


async def measure_growth(folder: Path, seconds: float, say: Say) -> list[Series]:
    """All series; ``seconds`` for each point."""
    found: list[Series] = []
    for name, measure in (
        ("LUNs", _luns), ("sessions", _sessions), ("elements of a list", _elements), ("commands at once", _depths),
    ):  # fmt: skip
        book = _Book(name)
        await measure(folder, seconds, book)
        found += book.series.values()
        for each in book.series.values():
            say(f"{name}, {each.line}: {each.what}: {each.y[0]:.3g} to {each.y[-1]:.3g} {each.unit}, "
                f"exponent {each.exponent:.2f}")  # fmt: skip
    return found


async def _luns(folder: Path, seconds: float, book: _Book) -> None:
    for count in COUNTS:
        async with our_target(folder, luns=count, size=_LUN_SIZE) as served, our_initiator(folder) as worker:
            book.add("both", "starting the target: processor time", "s", count, cpu_seconds(served.pid))
            for line, scheme in TRANSPORTS.items():
                await worker.ask("connect", url=served.url(scheme, 0), queue_depth=_DEPTH)
                opened = await worker.ask("open_luns", count=count)
                book.add(line, "learning of every LUN: initiator's processor time", "s", count, opened["cpu_ns"] / 1e9)
                await _small_reads(worker, served, seconds, book, line, count)
                await worker.ask("close")


async def _sessions(folder: Path, seconds: float, book: _Book) -> None:
    for count in COUNTS:
        for line, scheme in TRANSPORTS.items():
            async with our_target(folder, size=_DISK) as served, our_initiator(folder) as worker:
                before, cpu = memory(served.pid).pss, cpu_seconds(served.pid)
                made = await worker.ask("connect", url=served.url(scheme, 0), count=count, queue_depth=_DEPTH)
                await worker.ask("run", size=_SMALL, depth=1, seconds=0.01)  # nothing of the login is on its way
                book.add(line, "logging all of them in: initiator's processor time", "s", count, made["cpu_ns"] / 1e9)
                if count >= _CLOCK_FROM:
                    cpu = cpu_seconds(served.pid) - cpu
                    book.add(line, "logging all of them in: target's processor time", "s", count, cpu)
                    held = (memory(served.pid).pss - before) / (1 << 20)
                    book.add(line, "memory of all of them in the target", "MiB", count, held)
                await _small_reads(worker, served, seconds, book, line, count)


async def _small_reads(worker: Worker, served: Served, seconds: float, book: _Book, line: str, x: int) -> None:
    before = cpu_seconds(served.pid)
    run = await worker.run(_SMALL, _DEPTH, seconds)
    _costs(book, line, run, x, cpu_seconds(served.pid) - before, "a 4 KiB read, 32 at once")
    run = await worker.run(_SMALL, 1, seconds / 2, latency=True)
    book.add(line, "a 4 KiB read, one at a time: time until done", "us", x, _median_us(run))


def _median_us(run: Run) -> float:
    return run.histogram.percentile(50) / 1e3


def _costs(book: _Book, line: str, run: Run, x: int, target_seconds: float, what: str) -> None:
    book.add(line, f"{what}: target's processor time", "us", x, 1e6 * target_seconds / run.ios)
    book.add(line, f"{what}: initiator's processor time", "us", x, run.cpu_ns / 1e3 / run.ios)


async def _elements(folder: Path, seconds: float, book: _Book) -> None:
    async with our_target(folder, size=_DISK) as served, our_initiator(folder) as worker:
        for line, scheme in TRANSPORTS.items():
            await worker.ask("connect", url=served.url(scheme, 0), queue_depth=_DEPTH)
            await worker.ask("fill")
            for count in ELEMENTS:
                for write in (False, True):
                    what = f"a 1 MiB {'write' if write else 'read'}"
                    before = cpu_seconds(served.pid)
                    run = await worker.run(_LARGE, 1, seconds, write=write, elements=count, latency=True)
                    _costs(book, line, run, count, cpu_seconds(served.pid) - before, what)
                    book.add(line, f"{what}: time until done", "us", count, _median_us(run))
            await worker.ask("close")


async def _depths(folder: Path, seconds: float, book: _Book) -> None:
    async with our_target(folder, size=_DISK, depth=DEPTHS[-1]) as served, our_initiator(folder) as worker:
        for line, scheme in TRANSPORTS.items():
            await worker.ask("connect", url=served.url(scheme, 0), queue_depth=DEPTHS[-1])
            await worker.ask("fill")
            for depth in DEPTHS:
                before = cpu_seconds(served.pid)
                run = await worker.run(_SMALL, depth, seconds, latency=True)
                _costs(book, line, run, depth, cpu_seconds(served.pid) - before, "a 4 KiB read")
                book.add(line, "a 4 KiB read: time until done", "us", depth, _median_us(run))
            await worker.ask("close")
