"""Which cases there are: strategy x shape x size x direction x queue depth x who invalidates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

from initiator.bench.shapes import CORE_SHAPES, COUNT_NAMES, EVERY_NAME, SHAPE_NAMES, SHAPES, element_count, lay
from initiator.options import MAX_QUEUE_DEPTH
from iser.errors import UsageError
from iser.sg import shape_of
from iser.sg.planner import has_long_lived_keys
from iser.sg.shape import SECTOR, SgClass
from iser.sg.strategies import AUTO

__all__ = [
    "ALL_STRATEGIES",
    "CORE",
    "FULL",
    "MULTI_MR",
    "QUICK",
    "RAW_TCP",
    "Axes",
    "Case",
    "cases_of",
    "is_legal",
    "run_lengths",
]

MULTI_MR: Final = "multi_mr"
RAW_TCP: Final = "raw_tcp"  # no strategy: the same bytes over plain sockets
ALL_STRATEGIES: Final = (
    "dma_key", "frwr", "indirect", "bounce", "bounce_pool", "mr512", MULTI_MR, "split", "immediate"
)  # fmt: skip
MAX_IMMEDIATE: Final = 8192  # bytes: a write that fits a command, as our target takes it
MAX_MULTI_RUNS: Final = 240  # keys in one message of the benchmark's own protocol
MAX_SPLIT_RUNS: Final = 2048
_NO_KEYS: Final = ("immediate", RAW_TCP)
CONTRAST: Final = ("S0", "S8")  # shapes whose ratio is a goal of the project
_SEED: Final = 1  # legality does not depend on it


def _known(what: str, values: Iterable[str], choices: Sequence[str]) -> None:
    for value in values:
        if value not in choices:
            raise UsageError(f"{what} {value!r} does not exist; choose among {', '.join(choices)}")


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the matrix.

    ``size`` in bytes; ``invalidate`` is who invalidates keys, ``local``, ``remote`` or, where none die, ``none``;
    ``pool`` are the regions that ``multi_mr`` has, as a share of what the queue depth asks for.
    """

    strategy: str
    shape: str
    size: int
    write: bool
    depth: int
    invalidate: str
    pool: float = 1.0

    @property
    def group(self) -> tuple[str, int, bool, int]:
        """Cases of one group differ in how lists are registered only."""
        return self.shape, self.size, self.write, self.depth

    @property
    def turns(self) -> tuple[str, int, bool, int]:
        """Cases that have this in common are measured in turn: those of a group, and random bytes with contiguous."""
        shape = "/".join(CONTRAST) if self.shape in CONTRAST else self.shape
        return shape, self.size, self.write, self.depth

    @property
    def key(self) -> str:
        """Names the case in a journal and in comparisons."""
        direction = "write" if self.write else "read"
        pool = "" if self.pool == 1 else f"/pool{self.pool:g}"
        return f"{self.strategy}/{self.shape}/{self.size}/{direction}/qd{self.depth}/{self.invalidate}{pool}"

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Axes:
    """The values of each axis; ``local`` shapes are measured with local invalidation, too."""

    shapes: Sequence[str]
    sizes: Sequence[int]
    depths: Sequence[int]
    strategies: Sequence[str] = ALL_STRATEGIES
    invalidate: Sequence[str] = ("remote",)
    directions: Sequence[str] = ("read", "write")
    pools: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        _known("shape", [name for name in self.shapes if not element_count(name)], EVERY_NAME)
        _known("strategy", self.strategies, (*ALL_STRATEGIES, AUTO, RAW_TCP))
        _known("invalidate", self.invalidate, ("local", "remote"))
        _known("direction", self.directions, ("read", "write"))
        for size in self.sizes:
            if size < SECTOR or size % SECTOR or size > 8 << 20:
                raise UsageError(f"size {size}: give a multiple of 512 from 512 bytes to 8 MiB")
        for depth in self.depths:
            if not 1 <= depth <= MAX_QUEUE_DEPTH:
                raise UsageError(f"depth {depth}: give 1 to {MAX_QUEUE_DEPTH}")


_COPY_OR_NOT: Final = ("frwr", "indirect", "bounce", "bounce_pool")
#: What the goals of the project ask for, at their own queue depth.
_GOALS: Final = (
    Axes(("S0", "S4", "S5", "S8"), (65536, 524288), (8,), _COPY_OR_NOT),
    Axes(("S0",), (1 << 20,), (8,), ("frwr", RAW_TCP)),
)
_BOTH_SIDES: Final = Axes(("S0", "S8"), (65536,), (32,), _COPY_OR_NOT, ("local",))

QUICK: Final = (Axes(("S0", "S2", "S8"), (4096, 65536), (8,)), *_GOALS)
CORE: Final = (Axes(CORE_SHAPES, (4096, 65536, 524288), (1, 32)), *_GOALS, _BOTH_SIDES)
FULL: Final = (
    Axes(
        SHAPE_NAMES,
        (512, 4096, 16384, 65536, 262144, 524288, 1 << 20),
        (1, 8, 32, 128),
        invalidate=("remote", "local"),
    ),
    *_GOALS,
    Axes(COUNT_NAMES, (65536,), (1, 32), ("indirect", "bounce", "bounce_pool")),
    Axes(tuple(name for name in SHAPE_NAMES if name.startswith("Smix")), (65536, 524288), (1, 32), (AUTO,)),
    Axes(("S5", "S8"), (65536,), (1, 8, 32), (MULTI_MR,), pools=(0.5, 0.25)),
)


def cases_of(plan: Sequence[Axes], *, embedded: bool) -> list[Case]:
    """All legal cases of a plan, each once, those of one group together.

    ``multi_mr`` and plain sockets need a peer of our own: only if ``embedded``.
    """
    groups: dict[tuple[str, int, bool, int], dict[Case, None]] = {}
    for axes in plan:
        for case in _product(axes):
            if is_legal(case) and (embedded or case.strategy not in (MULTI_MR, RAW_TCP)):
                groups.setdefault(case.group, {})[case] = None
    return [case for group in groups.values() for case in group]


def _product(axes: Axes) -> Iterator[Case]:
    values = product(
        axes.sizes, axes.shapes, axes.directions, axes.depths, axes.invalidate, axes.pools, axes.strategies
    )
    for size, shape, direction, depth, invalidate, pool, strategy in values:
        # Without keys to invalidate there is one way only.
        who = "none" if strategy in _NO_KEYS or (strategy != MULTI_MR and has_long_lived_keys(strategy)) else invalidate
        yield Case(strategy, shape, size, direction == "write", depth, who, pool)


def is_legal(case: Case) -> bool:
    """True when the strategy itself, and no fallback, serves the shape."""
    name = case.shape.partition("(")[0]
    info = SHAPES.get(name)
    if info is not None:
        if case.size < info.smallest or (info.read_only and case.write):
            return False
        if info.read_only:
            return case.strategy in (AUTO, "bounce", "bounce_pool")  # an overlapping destination must be copied
    elif case.size < 65536 and not element_count(case.shape):
        return False  # a mixture of lists of one element or two tells nothing
    if case.strategy == RAW_TCP:
        return case.shape == "S0"
    if case.strategy == "immediate":
        return case.write and case.size <= MAX_IMMEDIATE
    if case.strategy in (AUTO, "indirect", "bounce", "bounce_pool"):
        return True
    if info is None and not element_count(case.shape):
        return case.strategy == "frwr"  # falls back for part of the lists: what that costs is the question
    return _fits(case)


def _fits(case: Case) -> bool:
    layout = lay(case.shape, case.size, _SEED)
    plain = _Plain(layout.spans, layout.size)
    by_page = shape_of(plain)
    match case.strategy:
        case "dma_key":
            return by_page.sg_class is SgClass.SINGLE
        case "frwr":
            return by_page.gaps == 0
        case "mr512":
            return shape_of(plain, SECTOR).gaps == 0 and by_page.gaps > 0
        case "multi_mr":
            return 0 < by_page.gaps < MAX_MULTI_RUNS
        case _:
            runs = run_lengths(layout.spans)
            return 1 < len(runs) <= MAX_SPLIT_RUNS and not any(length % SECTOR for length in runs)


class _Plain:
    """A layout by numbers only, as it lies in a page-aligned arena."""

    def __init__(self, spans: list[tuple[int, int]], length: int) -> None:
        self.views: Sequence[memoryview] = ()
        self.addresses = [offset for offset, _ in spans]
        self.lengths = [length for _, length in spans]
        self.length = length


def run_lengths(spans: list[tuple[int, int]]) -> list[int]:
    """Bytes of each stretch without gaps of a layout."""
    runs: list[int] = []
    end = -1
    for offset, length in spans:
        if runs and (offset == end or not (offset | end) & 4095):
            runs[-1] += length
        else:
            runs.append(length)
        end = offset + length
    return runs
