"""``iser bench mr``: what registering, registering again and invalidating cost against the number of elements.

No connection is involved: work requests are carried out right here, on the embedded RNIC's own regions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from initiator.bench.allocator import keep_freed_memory
from initiator.bench.shapes import SHAPES, lay
from initiator.bench.table import size_name
from iser.rdma.softiwarp.device import SoftDevice
from iser.rdma.softiwarp.memory import SoftMemoryRegion
from iser.rdma.softiwarp.options import SoftIwarpOptions
from iser.sg import Direction, Planner, SgList, shape_of
from iser.sg.planner import has_long_lived_keys
from iser.sg.sglist import Buffer

__all__ = ["ELEMENTS", "GOAL", "Row", "crossovers", "measure", "show"]

ELEMENTS: Final = (1, 2, 4, 5, 8, 16, 32, 64, 128, 256, 512, 1024)
GOAL: Final = 500.0  # nanoseconds for each element of a list of 128
GOAL_ELEMENTS: Final = 128
_SIZES: Final = tuple(1 << shift for shift in range(9, 21))
_ELEMENT: Final = 4096
_BATCHES: Final = 7
_STEPS: Final = ("of", "spans", "classify", "register", "again", "invalidate")


@dataclass(frozen=True, slots=True)
class Row:
    """Nanoseconds for a list of ``elements``, by step: see :data:`_STEPS` and :func:`measure`."""

    elements: int
    costs: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"elements": self.elements, **self.costs}

    @property
    def each(self) -> float:
        """Classification and mapping of a list seen for the first time, for each element."""
        return (self.costs["classify"] + self.costs["register"]) / self.elements


def _best(work: Callable[[], object], seconds: float) -> float:
    """Nanoseconds of one call: the least of several batches, as anything above it is the machine's doing."""
    start = time.perf_counter_ns()
    work()
    once = max(time.perf_counter_ns() - start, 1)
    count = max(1, int(seconds * 1e9 / _BATCHES / once))
    best = float("inf")
    for _ in range(_BATCHES):
        start = time.perf_counter_ns()
        for _ in range(count):
            work()
        best = min(best, (time.perf_counter_ns() - start) / count)
    return best


class _Bench:
    """A planner on a device of its own."""

    def __init__(self, strategy: str) -> None:
        device = SoftDevice(SoftIwarpOptions())
        self.planner = Planner(device.alloc_pd(), device.attributes, 8, strategy=strategy)

    def cycle(self, sg: SgList, direction: Direction) -> None:
        """Register, carry the work requests out, invalidate, release: all but the transfer."""
        registration = self.planner.register(sg, direction)
        region = registration.region
        assert isinstance(region, SoftMemoryRegion)
        for work in registration.work:
            region.register(work)
        if not registration.long_lived:
            region.invalidate()
        self.planner.release(registration, sg.length)


def _fresh(sg: SgList) -> SgList:
    """The same list, with nothing known about it."""
    return SgList(list(sg.views), list(sg.addresses), list(sg.lengths))


def measure(seconds: float, elements: Sequence[int] = ELEMENTS) -> list[Row]:
    """A row for each number of elements: byte-granular pieces in any order, as the destination of a read.

    ``of`` makes the list from as many views, ``spans`` from offsets into one buffer; ``classify`` finds out whether
    it has gaps and whether pieces overlap, which is all that choosing a strategy takes; ``register`` maps it and
    carries out the work request, ``again`` does all of that for a list that was used before, with its invalidation;
    ``invalidate`` is the invalidation alone.
    """
    keep_freed_memory()
    return [_row(count, seconds) for count in elements]


def _row(count: int, seconds: float) -> Row:
    spans, size = _spread(count)
    memory = memoryview(bytearray(size))
    views: list[Buffer] = [memory[offset : offset + length] for offset, length in spans]
    sg = SgList.of(views, writable=True)
    copy = _best(lambda: _fresh(sg), seconds)
    costs = {
        "of": _best(lambda: SgList.of(views, writable=True), seconds),
        "spans": _best(lambda: SgList.spans(memory, spans), seconds),
    }
    return Row(count, costs | _registering(_Bench("indirect"), sg, copy, seconds))


def _spread(count: int) -> tuple[list[tuple[int, int]], int]:
    """(offset, length) of the elements, in no order, and the bytes that hold them."""
    spans = [((index * 7919) % count * 2 * _ELEMENT + 1, _ELEMENT) for index in range(count)]
    return spans, (2 * count + 1) * _ELEMENT


def _registering(bench: _Bench, sg: SgList, copy: float, seconds: float) -> dict[str, float]:
    def classify() -> None:
        fresh = _fresh(sg)
        _ = fresh.gappy, fresh.overlaps

    region = bench.planner.register(sg, Direction.READ)
    mapped = region.region
    assert isinstance(mapped, SoftMemoryRegion)

    def invalidation() -> None:
        mapped.invalidate()

    whole = _best(lambda: bench.cycle(_fresh(sg), Direction.READ), seconds)
    again = _best(lambda: bench.cycle(sg, Direction.READ), seconds)
    invalidate = _best(invalidation, seconds)
    classified = _best(classify, seconds) - copy
    return {
        "classify": classified,
        "register": max(whole - copy - classified - invalidate, 0.0),
        "again": again,
        "invalidate": invalidate,
    }


def crossovers(seconds: float) -> list[tuple[str, str, int | None, list[tuple[int, float, float]]]]:
    """For each shape and copying strategy: the size from which registering the list costs less than copying it.

    Gives (shape, strategy, size or None if it never does, [(size, ns registered, ns copied)]), for reads.
    """
    keep_freed_memory()
    found = []
    for shape, info in SHAPES.items():
        if info.read_only:
            continue
        for strategy in ("bounce", "bounce_pool"):
            sizes = [size for size in _SIZES if size >= info.smallest]
            points = [(size, *_pair(shape, size, strategy, seconds)) for size in sizes]
            found.append((shape, strategy, _crossing(points), points))
    return found


def _pair(shape: str, size: int, strategy: str, seconds: float) -> tuple[float, float]:
    layout = lay(shape, size, 1)
    sg = SgList.spans(memoryview(bytearray(layout.arena)), layout.spans)
    register = _Bench("indirect" if shape_of(sg).gaps else "frwr")
    copying = _Bench(strategy)
    assert has_long_lived_keys(strategy) or strategy == "bounce"
    return (
        _best(lambda: register.cycle(_fresh(sg), Direction.READ), seconds),
        _best(lambda: copying.cycle(_fresh(sg), Direction.READ), seconds),
    )


def _crossing(points: Sequence[tuple[int, float, float]]) -> int | None:
    """The size from which on, up to the largest, registering costs less."""
    cheaper = [size for size, registered, copied in points if registered < copied]
    if not cheaper or points[-1][1] >= points[-1][2]:
        return None
    size = points[-1][0]
    for before, here in pairwise(reversed([point[0] for point in points])):
        if here not in cheaper:
            return before
        size = here
    return size


def show(rows: Sequence[Row], crossings: Sequence[tuple[str, str, int | None, Any]], console: Console) -> None:
    """Both tables, and the goal."""
    table = Table(title="indirect registration, nanoseconds for a list", title_justify="left")
    table.add_column("elements", justify="right")
    for name in (*_STEPS, "ns/element"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(str(row.elements), *(f"{row.costs[name]:,.0f}" for name in _STEPS), f"{row.each:,.0f}")
    console.print(table)
    for row in rows:
        if row.elements == GOAL_ELEMENTS:
            console.print(
                f"a list of {GOAL_ELEMENTS} elements, classified and registered: {row.each / 1000:.2f} us for each"
                f" (goal: at most {GOAL / 1000:.2f}); used again: {row.costs['again'] / row.elements / 1000:.2f} us",
                highlight=False,
            )
    if crossings:
        sizes = Table(title="registering costs less than copying from this size on (CPU only)", title_justify="left")
        for name in ("shape", "against bounce", "against bounce_pool"):
            sizes.add_column(name)
        by_shape: dict[str, list[str]] = {}
        for shape, _, size, _ in crossings:
            by_shape.setdefault(shape, []).append("never" if size is None else size_name(size))
        for shape, cells in by_shape.items():
            sizes.add_row(shape, *cells)
        console.print(sizes)
