"""``iser bench io``: a job like fio's, from flags or a TOML file, on any LUN and through any engine."""

from __future__ import annotations

import asyncio
import mmap
import random
import sys
import time
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

import initiator
from initiator.bench.histogram import Histogram
from initiator.bench.result import PERCENTILES
from initiator.bench.shapes import EVERY_NAME, SHAPE_NAMES, element_count, lay
from initiator.lun import Lun
from initiator.options import parse_size
from iser.errors import ConfigError, UsageError
from iser.sg import SgList

__all__ = ["ENGINES", "IoEngine", "Job", "LunEngine", "Outcome", "load_jobs", "run_job", "show_outcome"]

MAX_SECONDS: Final = 86400.0
SECTOR: Final = 512
_KINDS: Final = {"int": "a number", "float": "a number", "str": "a text in quotes", "bool": "true or false"}


@dataclass(frozen=True, slots=True)
class Job:
    """``read_percent`` of the transfers read; ``size`` is that of one, at multiples of itself below ``span`` bytes.

    ``pattern`` is ``random`` or ``sequential``; ``span`` 0 is all of the LUN; ``runtime`` in seconds; ``strategy`` is
    the URL's where it is empty.  ``no_bounce`` refuses lists in place of copying them.

    Raises UsageError.
    """

    name: str = "job"
    read_percent: int = 100
    size: int = 4096
    depth: int = 32
    runtime: float = 5.0
    pattern: str = "random"
    shape: str = "S0"
    strategy: str = ""
    offset: int = 0
    span: int = 0
    seed: int = 1
    no_bounce: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.read_percent <= 100:
            raise UsageError(f"read_percent {self.read_percent}: give 0 to 100")
        if self.size < SECTOR or self.size % SECTOR or self.size > 16 << 20:
            raise UsageError(f"size {self.size}: give a multiple of 512 up to 16 MiB")
        if not 1 <= self.depth <= 1024:
            raise UsageError(f"depth {self.depth}: give 1 to 1024")
        if not 0 < self.runtime <= MAX_SECONDS:
            raise UsageError(f"runtime {self.runtime}: give seconds, up to {MAX_SECONDS:g}")
        if self.pattern not in ("random", "sequential"):
            raise UsageError(f"pattern {self.pattern!r}: give random or sequential")
        if self.shape not in SHAPE_NAMES and not element_count(self.shape):
            raise UsageError(f"shape {self.shape!r} does not exist; choose among {', '.join(EVERY_NAME)}")
        if min(self.offset, self.span) < 0 or self.offset % SECTOR:
            raise UsageError("offset and span: give bytes, the offset a multiple of 512")


def load_jobs(path: Path) -> list[Job]:
    """The jobs of a TOML file: values at the top level hold for each ``[jobs.NAME]``.  Raises ConfigError."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from None
    tables = document.pop("jobs", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(str(path), "jobs: write a table for each job, as in [jobs.name]")
    if not tables:
        tables = {path.stem: {}}
    return [_job(f"{path}: jobs.{name}", {"name": name, **document, **table}) for name, table in tables.items()]


def _job(where: str, values: dict[str, Any]) -> Job:
    known = {each.name: each.type for each in fields(Job)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(where, f"{name} is no setting of a job; choose among {', '.join(known)}")
        try:
            changes[name] = _value(name, value, str(known[name]))
        except UsageError as error:
            raise ConfigError(where, str(error)) from None
    try:
        return replace(Job(), **changes)
    except UsageError as error:
        raise ConfigError(where, str(error)) from None


def _value(name: str, value: object, kind: str) -> object:
    if kind == "int" and isinstance(value, str):
        return parse_size(value)
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != kind:
        raise UsageError(f"{name} = {value!r}: give {_KINDS[kind]}")
    return value


class IoEngine(ABC):
    """What carries out a job's transfers.  ``size`` is the LUN's, in bytes."""

    size: int

    @abstractmethod
    async def read(self, offset: int, sg: SgList) -> None:
        """Fill a list from ``offset`` bytes on."""

    @abstractmethod
    async def write(self, offset: int, sg: SgList) -> None:
        """Write a list from ``offset`` bytes on."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class LunEngine(IoEngine):
    """A LUN of this package's own initiator, or of one with its API."""

    def __init__(self, lun: Lun) -> None:
        self._lun = lun
        self._block = lun.capacity.block_size
        self.size = lun.capacity.size

    async def read(self, offset: int, sg: SgList) -> None:
        await self._lun.read_into(offset // self._block, sg)

    async def write(self, offset: int, sg: SgList) -> None:
        await self._lun.write(offset // self._block, sg)

    async def close(self) -> None:
        await self._lun.close()


async def _open_iser(url: str, job: Job) -> IoEngine:
    options: dict[str, Any] = {"queue_depth": job.depth}
    if job.strategy:
        options["strategy"] = job.strategy
    if job.no_bounce:
        options["no_bounce"] = True
    return LunEngine(await initiator.connect(url, **options))


async def _open_libiscsi(url: str, job: Job) -> IoEngine:
    from initiator import libiscsi  # noqa: PLC0415 - loads a library of the system

    return LunEngine(await libiscsi.connect(url, queue_depth=job.depth))


Opener = Callable[[str, Job], Awaitable[IoEngine]]
#: Ways to reach a LUN, by name; each gives an engine for a URL and a job.
ENGINES: Final[dict[str, Opener]] = {"iser": _open_iser, "libiscsi": _open_libiscsi}


@dataclass(slots=True)
class Outcome:
    """What a job came to, for reads and writes apart.  Latencies in nanoseconds."""

    job: Job
    seconds: float = 0.0
    cpu: int = 0
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)

    @property
    def cpu_each(self) -> float:
        """Nanoseconds of processor time of this process for one transfer."""
        return self.cpu / max(1, len(self.reads) + len(self.writes))

    def to_json(self) -> dict[str, Any]:
        """Rates and percentiles."""
        sides = {"read": self.reads, "write": self.writes}
        return {
            "job": {each.name: getattr(self.job, each.name) for each in fields(self.job)},
            "seconds": self.seconds,
            "cpu_ns_per_io": self.cpu_each,
            **{name: _summary(samples, self.job.size, self.seconds) for name, samples in sides.items() if samples},
        }


def _summary(samples: Sequence[int], size: int, seconds: float) -> dict[str, Any]:
    histogram = Histogram.of(samples)
    return {
        "ios": len(samples),
        "iops": len(samples) / seconds,
        "bytes_per_second": len(samples) * size / seconds,
        "latency_ns": {f"p{percent:g}": histogram.percentile(percent) for percent in PERCENTILES},
        "histogram": histogram.to_json(),
    }


async def run_job(engine: IoEngine, job: Job) -> Outcome:
    """Carry a job out.  Raises what the engine raises, and UsageError for a job that does not fit the LUN."""
    span = min(job.span or engine.size, engine.size - job.offset)
    places = span // job.size
    if places < 1:
        raise UsageError(f"{job.name}: the LUN of {engine.size} bytes has no {job.size} bytes from {job.offset} on")
    outcome = Outcome(job)
    turn = iter(range(sys.maxsize))
    cpu, start = time.process_time_ns(), time.perf_counter()
    end = start + job.runtime

    async def worker(number: int) -> None:
        randomness = random.Random(f"{job.seed}/{number}")  # noqa: S311 - the same job in every run
        layout = lay(job.shape, job.size, job.seed, number)
        sg = SgList.spans(memoryview(mmap.mmap(-1, layout.arena)), layout.spans)
        sg.scatter(memoryview(randomness.randbytes(job.size)))
        while time.perf_counter() < end:
            place = next(turn) % places if job.pattern == "sequential" else randomness.randrange(places)
            reading = randomness.randrange(100) < job.read_percent
            begin = time.perf_counter_ns()
            await (engine.read if reading else engine.write)(job.offset + place * job.size, sg)
            (outcome.reads if reading else outcome.writes).append(time.perf_counter_ns() - begin)

    await asyncio.gather(*(worker(number) for number in range(job.depth)))
    outcome.seconds, outcome.cpu = time.perf_counter() - start, time.process_time_ns() - cpu
    return outcome


def show_outcome(outcome: Outcome, console: Console) -> None:
    """Two lines at most, like fio's; the processor time is that of this process for one transfer of either kind."""
    cpu = outcome.cpu_each
    for name, samples in (("read", outcome.reads), ("write", outcome.writes)):
        if samples:
            found = _summary(samples, outcome.job.size, outcome.seconds)
            latency = "  ".join(f"{key} {value / 1000:,.0f} us" for key, value in found["latency_ns"].items())
            console.print(
                f"{outcome.job.name}: {name:<5} {found['iops']:10,.0f} IOPS"
                f" {found['bytes_per_second'] / 1e6:9,.1f} MB/s  {latency}  CPU {cpu / 1000:,.1f} us",
                highlight=False,
            )
