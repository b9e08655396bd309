"""Measure cases, those of one group in turn, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from initiator.bench import multi_mr
from initiator.bench.allocator import keep_freed_memory
from initiator.bench.cases import MULTI_MR, RAW_TCP, Case, run_lengths
from initiator.bench.engines import Engine, LunEngine, MultiMrEngine, raw_slice
from initiator.bench.environment import describe_environment
from initiator.bench.multi_mr import MAX_REQUESTS, MultiMrClient
from initiator.bench.process import cpu_of, own_cpu, port_server
from initiator.bench.result import COUNTS, Journal, Measurement, Result, Slice
from initiator.bench.workload import VERIFIED, VerificationError, Workload
from initiator.loopback import started_target
from initiator.url import Url
from iser.sg import RegistrationCounters, SgList

__all__ = ["Progress", "Settings", "Unaligned"]

RAW_RATE: Final = 2e9  # bytes in a second that plain sockets are first taken to move
SLICE_MIN: Final = 0.01  # seconds
LEAD: Final = 0.005  # seconds of each turn that are not measured: other cases had the caches and windows before

Progress = Callable[[int, int, Case], None]  # turns that are complete, all turns, and the case to come


@dataclass(frozen=True, slots=True)
class Settings:
    """``seconds`` of each of the ``repeats`` of a case; ``fresh`` makes each list anew for each transfer."""

    seconds: float
    repeats: int = 5
    seed: int = 1
    fresh: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the result."""
        return {"seconds": self.seconds, "repeats": self.repeats, "seed": self.seed, "fresh": self.fresh}


class Unaligned:
    """A run of ``cases`` against the LUN at ``url``, or against a target of its own in another process.

    Use as an async context manager.  Raises what connecting and moving data raise, and VerificationError.
    """

    def __init__(self, cases: Sequence[Case], settings: Settings, url: Url | None) -> None:
        self.cases = cases
        self.settings = settings
        self._url = url
        self._pid: int | None = None
        self._depth = max(case.depth for case in cases)
        self._engines: dict[tuple[str, str], LunEngine] = {}
        self._multi_mr: tuple[int, int] | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Unaligned:
        keep_freed_memory()
        if self._url is None:
            self._url, self._pid = await self._stack.enter_async_context(started_target())
        return self

    async def __aexit__(self, *error: object) -> None:
        for engine in self._engines.values():
            await engine.close()
        await self._stack.aclose()

    def new_result(self) -> Result:
        """An empty result of this run."""
        embedded = self._pid is not None
        fabric = "embedded RNIC, two processes, loopback" if embedded else "a target that was there already"
        settings = {**self.settings.to_json(), "cases": len(self.cases), "url": "" if embedded else str(self._url)}
        return Result("unaligned", describe_environment(fabric), settings)

    async def run(self, result: Result, journal: Journal | None, progress: Progress) -> None:
        """Measure what the journal does not have yet, and put all into ``result``."""
        done = dict(journal.done) if journal else {}
        total = len(self.cases) * self.settings.repeats
        turns = sum(case.key in done for case in self.cases) * self.settings.repeats
        for group in _groups(self.cases):
            missing = [case for case in group if case.key not in done]
            if missing:
                for measurement in await self._group(missing, partial(_later, progress, turns, total)):
                    done[measurement.case.key] = measurement
                    if journal:
                        journal.add(measurement)
            turns += len(missing) * self.settings.repeats
            progress(turns, total, group[-1])
        result.measurements = [done[case.key] for case in self.cases]

    async def _group(self, cases: Sequence[Case], progress: Callable[[int, Case], None]) -> list[Measurement]:
        workloads = {
            case.shape: Workload(case.shape, case.size, case.depth, self.settings.seed)
            for case in {case.shape: case for case in cases}.values()
        }
        found = []
        for case in cases:
            workload = workloads[case.shape]
            measurement = Measurement(case, list=workload.describe(), digest=workload.digest)
            found.append(_Measured(measurement, workload, await self._engine(case, workload)))
        try:
            for each in found:
                progress(0, each.case)
                await self._verify(each)
            for each in found:
                await self._warm(each)
            with _quiet_collector():
                for number, each in enumerate(_turns(found, self.settings)):
                    progress(number, each.case)
                    await self._slice(each)
            for each in found:
                await self._verify(each)
                each.finish()
        finally:
            for each in found:
                if isinstance(each.engine, MultiMrEngine):
                    await each.engine.close()
        return [each.measurement for each in found]

    async def _engine(self, case: Case, workload: Workload) -> Engine | None:
        if case.strategy == RAW_TCP:
            return None
        if case.strategy == MULTI_MR:
            return await self._multi_mr_engine(case, workload)
        key = (case.strategy, case.invalidate)
        if key not in self._engines:
            assert self._url
            self._engines[key] = await LunEngine.connect(self._url, case, self._depth, self._pid)
        return self._engines[key]

    async def _multi_mr_engine(self, case: Case, workload: Workload) -> Engine:
        if self._multi_mr is None:
            self._multi_mr = await self._stack.enter_async_context(port_server(multi_mr.__name__))
        port, pid = self._multi_mr
        runs = [len(run_lengths(spans)) for spans in workload.spans]
        pool = max(*runs, math.ceil(case.pool * min(case.depth, MAX_REQUESTS) * sum(runs) / len(runs)))
        client = await MultiMrClient.connect(port, pool, remote_invalidate=case.invalidate == "remote")
        return MultiMrEngine(client, pid)

    async def _verify(self, each: _Measured) -> None:
        """Move the first lists out and back in, and compare every byte.  Warms the pools, too."""
        case, engine, workload = each.case, each.engine, each.workload
        if engine is None:
            return
        for index in range(min(VERIFIED, len(workload.data))):
            offset, plain = workload.offsets[index], SgList.of(bytearray(case.size), writable=True)
            if case.write:
                workload.fill(index)
                await engine.move(workload.lists[index], offset, write=True)
                await engine.move(plain, offset, write=False)
                workload.check_stored(index, plain.views, case.key)
            else:
                plain.scatter(memoryview(workload.data[index]))
                await engine.move(plain, offset, write=True)
                workload.guard(index)
                await engine.move(workload.lists[index], offset, write=False)
                workload.check_list(index, case.key)
            each.measurement.verified += 1

    async def _warm(self, each: _Measured) -> None:
        """One round of all workers, so that pools have grown to what the depth needs."""
        if each.engine is not None:
            await self._move(each, 0, [])

    async def _slice(self, each: _Measured) -> None:
        case, engine, settings = each.case, each.engine, self.settings
        if engine is None:
            rates = each.measurement.rates
            rate = rates[-1] if rates else RAW_RATE
            each.measurement.slices.append(await raw_slice(case.size, settings.seconds, rate, write=case.write))
            return
        await self._move(each, time.perf_counter_ns() + int(LEAD * 1e9), [])
        samples: list[int] = []
        before, operations = engine.counters.copy(), engine.remote_operations
        peer, own, start = cpu_of(engine.peer_pid), own_cpu(), time.perf_counter_ns()
        await self._move(each, start + int(max(settings.seconds, SLICE_MIN) * 1e9), samples)
        elapsed = (time.perf_counter_ns() - start) / 1e9
        spent, after = own_cpu() - own, cpu_of(engine.peer_pid)
        other = None if peer is None or after is None else after - peer
        each.measurement.slices.append(Slice(elapsed, len(samples), spent, other))
        each.note(samples, engine.counters.since(before), operations)

    async def _move(self, each: _Measured, end: int, samples: list[int]) -> None:
        """All workers, until the clock says ``end``; adds the latencies to ``samples``."""
        await asyncio.gather(*(self._worker(each, number, end, samples) for number in range(each.case.depth)))

    async def _worker(self, each: _Measured, number: int, end: int, samples: list[int]) -> None:
        engine, write, depth = each.engine, each.case.write, each.case.depth
        assert engine
        lists, offsets, now = each.workload.lists, each.workload.offsets, time.perf_counter_ns
        count, fresh = len(lists), self.settings.fresh
        at = number % count
        while True:
            start = now()
            sg = SgList.of(list(lists[at].views), writable=True) if fresh else lists[at]
            await engine.move(sg, offsets[at], write=write)
            done = now()
            samples.append(done - start)
            if done >= end:
                return
            at = (at + depth) % count


class _Measured:
    """A measurement in the making."""

    def __init__(self, measurement: Measurement, workload: Workload, engine: Engine | None) -> None:
        self.measurement = measurement
        self.workload = workload
        self.case = measurement.case
        self.engine = engine
        self._totals = RegistrationCounters()
        self._operations: int | None = 0
        self._ios = 0

    def note(self, samples: Sequence[int], spent: RegistrationCounters, operations: int | None) -> None:
        """Take in a slice; ``operations`` of the other end had been counted before it."""
        assert self.engine
        self._ios += len(samples)
        self.measurement.latency.add(type(self.measurement.latency).of(samples))
        self._totals.add(spent)
        now = self.engine.remote_operations
        if operations is None or now is None or self._operations is None:
            self._operations = None
        else:
            self._operations += now - operations

    def finish(self) -> None:
        """Counts of one transfer."""
        measurement, totals, ios = self.measurement, self._totals, self._ios
        if self.engine is None:
            return
        if self.engine.in_use:
            raise VerificationError(f"{self.case.key}: {self.engine.in_use} regions or bytes were not given back")
        for name in COUNTS:
            if name == "target_operations":
                value = self._operations
            elif name == "fallbacks":
                value = sum(totals.fallbacks.values())
            else:
                value = getattr(totals, name)
            if value is not None:
                measurement.counts[name] = _exact(value, ios)
        measurement.fallbacks = {reason: _exact(count, ios) for reason, count in totals.fallbacks.items()}
        measurement.high_water = {name: most for name, most in self.engine.high_water.items() if most}


def _exact(count: int, ios: int) -> float:
    return count // ios if not count % ios else count / ios


def _later(progress: Progress, turns: int, total: int, number: int, case: Case) -> None:
    """Tell of turn ``number`` of a group, before which ``turns`` were complete."""
    progress(turns + number, total, case)


def _turns(found: Sequence[_Measured], settings: Settings) -> Iterator[_Measured]:
    """Who comes when: shuffled for each repeat, and the next time backwards.

    So none always follows the same other, whose memory the caches still hold, and what drifts hits all alike.
    """
    first = found[0].case
    shuffled = list(found)
    randomness = random.Random(f"turns/{settings.seed}/{first.key}")  # noqa: S311 - the same order in every run
    for repeat in range(settings.repeats):
        if repeat % 2:
            shuffled.reverse()
        else:
            randomness.shuffle(shuffled)
        yield from shuffled


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from walking what is there already, in whichever case it would come."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _groups(cases: Sequence[Case]) -> list[list[Case]]:
    groups: dict[object, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.turns, []).append(case)
    return list(groups.values())
