"""Measures the rows: the sides of each case take turns in one run, in an order that alternates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Self

from initiator.bench.loopback import raw_throughput
from iser.net.sockets import LOCAL_CONGESTION
from tests.benchmark.iscsi_perf import iscsi_perf
from tests.benchmark.rows import GOALS, Row
from tests.benchmark.targets import Served, fill, our_target, tgt_target
from tests.benchmark.usage import cpu_seconds, memory
from tests.benchmark.worker import Worker, our_initiator

__all__ = ["DISK", "FULL", "SMOKE", "Sample", "Settings", "Site", "measure_rows", "session_kib", "take_turns"]

DISK: Final = 256 << 20  # bytes of each LUN
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_DEPTH: Final = 32
_STACK_DEPTH: Final = 8
_TGT_LUN: Final = 1
_MEMORY_LUN, _FILE_LUN = 0, 1

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured: ``seconds`` for each slice, ``sessions`` for the memory of one."""

    pairs: int
    seconds: int
    sessions: int
    disk: int = DISK


FULL: Final = Settings(pairs=5, seconds=2, sessions=1000)
SMOKE: Final = Settings(pairs=2, seconds=1, sessions=50, disk=64 << 20)


class Sample(NamedTuple):
    """Transfers a second, and seconds of the target's processor time for each GiB, of one slice."""

    iops: float
    cpu: float = 0.0


Side = Callable[[], Awaitable[Sample]]


@dataclass(slots=True)
class Site:
    """Both targets and our initiator, running.  ``folder`` holds what they write."""

    folder: Path
    ours: Served
    tgt: Served
    worker: Worker
    settings: Settings
    _raw: dict[bool, float] = field(default_factory=dict)

    @classmethod
    async def start(cls, stack: AsyncExitStack, folder: Path, settings: Settings) -> Self:
        """``stack`` ends it all."""
        disks = folder / "ours.img", folder / "tgt.img"
        for disk in disks:
            fill(disk, settings.disk)
        ours = await stack.enter_async_context(our_target(folder, size=settings.disk, file=disks[0]))
        tgt = await stack.enter_async_context(tgt_target(folder, disks[1]))
        worker = await stack.enter_async_context(our_initiator(folder))
        await worker.ask("connect", url=ours.url("iser", _MEMORY_LUN), queue_depth=_DEPTH)
        await worker.ask("fill")
        return cls(folder, ours, tgt, worker, settings)

    def tcp(self, served: Served, lun: int, size: int, depth: int) -> Side:
        """libiscsi's tool on a target."""

        async def side() -> Sample:
            url, log = served.url("iscsi", lun), self.folder / "iscsi-perf.log"
            seconds = self.settings.seconds
            before = cpu_seconds(served.pid)
            iops = await iscsi_perf(url, size=size, depth=depth, seconds=seconds, log=log)
            return Sample(iops, (cpu_seconds(served.pid) - before) / (iops * seconds * size / _GIB))

        return side

    def stack(self, size: int, depth: int, *, write: bool = False) -> Side:
        """Our initiator on our target, over iSER."""

        async def side() -> Sample:
            run = await self.worker.run(size, depth, self.settings.seconds, write=write)
            self._raw[write] = run.rate
            return Sample(run.iops)

        return side

    def raw(self, *, write: bool, congestion: bytes = b"") -> Side:
        """Plain sockets, as long as the stack takes for as many bytes."""

        async def side() -> Sample:
            pieces = max(1, round(self._raw[write] * self.settings.seconds / _MIB))
            rate = await raw_throughput(b"W" if write else b"R", pieces * _MIB, congestion=congestion)
            return Sample(rate / _MIB)

        return side


async def take_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, list[Sample]]:
    """Each side once a round, in turn from the first and from the last.  The first round begins with the first."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            samples[name].append(await sides[name]())
    return samples


async def measure_rows(site: Site, say: Say) -> list[Row]:
    """All rows but the lab's, in the order that they are measured in; ``say`` hears of each."""
    rows: list[Row] = []
    rows += await _tcp_rows(site, say)
    for write in (False, True):
        rows += await _raw_rows(site, say, write=write)
    rows += await _memory_rows(site, say)
    return rows


async def _tcp_rows(site: Site, say: Say) -> list[Row]:
    rows = []
    for key, size, depth in (
        ("tcp-4k-d32", 4096, _DEPTH), ("tcp-4k-d1", 4096, 1), ("tcp-64k", 65536, _DEPTH), ("tcp-1m", _MIB, _DEPTH),
    ):  # fmt: skip
        sides = {
            "memory": site.tcp(site.ours, _MEMORY_LUN, size, depth),
            "file": site.tcp(site.ours, _FILE_LUN, size, depth),
            "tgt": site.tcp(site.tgt, _TGT_LUN, size, depth),
        }
        if key == "tcp-4k-d32":
            sides["iser"] = site.stack(size, depth)
        found = await take_turns(sides, site.settings.pairs)
        scale = size / 1e6 if GOALS[key].of == "MB/s" else 1.0
        for name, suffix in (("memory", ""), ("file", "-file")):
            rows.append(_row(key + suffix, found[name], found["tgt"], say, scale))
            if key == "tcp-1m":
                rows.append(_cpu_row(f"cpu{suffix}", found[name], found["tgt"], say))
        if "iser" in found:
            rows.append(_row("iser-4k-d32", found["iser"], found["tgt"], say))
    return rows


async def _raw_rows(site: Site, say: Say, *, write: bool) -> list[Row]:
    """Against plain sockets as the system makes them, and with what our own choose within a machine."""
    sides = {
        "stack": site.stack(_MIB, _STACK_DEPTH, write=write),
        "raw": site.raw(write=write),
        "raw-local": site.raw(write=write, congestion=LOCAL_CONGESTION),
    }
    found = await take_turns(sides, site.settings.pairs)
    key = f"iser-1m-{'write' if write else 'read'}"
    return [_row(key + suffix, found["stack"], found["raw" + suffix], say, _MIB / 1e6) for suffix in ("", "-local")]


def _row(key: str, ours: list[Sample], peer: list[Sample], say: Say, scale: float = 1.0) -> Row:
    row = Row(GOALS[key], [each.iops * scale for each in ours], [each.iops * scale for each in peer])
    say(f"{row.goal.what}: {row.value:.2f} ({row.verdict})")
    return row


def _cpu_row(key: str, ours: list[Sample], peer: list[Sample], say: Say) -> Row:
    row = Row(GOALS[key], [each.cpu for each in ours], [each.cpu for each in peer])
    say(f"{row.goal.what}: {row.value:.2f} ({row.verdict})")
    return row


async def _memory_rows(site: Site, say: Say) -> list[Row]:
    """Against a target of ours that was just started, with the depth of queue that it has by default."""
    await site.worker.ask("close")
    count = site.settings.sessions
    theirs = await session_kib(site.worker, site.tgt, "iscsi", _TGT_LUN, count)
    rows = []
    for key, transport in (("memory-tcp", "iscsi"), ("memory-iser", "iser")):
        async with our_target(site.folder) as fresh:
            row = Row(GOALS[key], [await session_kib(site.worker, fresh, transport, _MEMORY_LUN, count)], [theirs])
        say(f"{row.goal.what}: {row.value:.0f} {row.goal.unit} ({row.verdict})")
        rows.append(row)
    return rows


async def session_kib(worker: Worker, served: Served, transport: str, lun: int, count: int) -> float:
    """KiB that each of ``count`` idle sessions adds to a target's memory."""
    url = served.url(transport, lun)
    await worker.ask("connect", url=url)  # what the first session makes is there for all
    before = memory(served.pid).pss
    await worker.ask("connect", url=url, count=count)
    grown = memory(served.pid).pss - before
    await worker.ask("close")
    return max(grown, 0) / count / 1024
