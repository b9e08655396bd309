"""The shapes of scatter-gather lists that the benchmark moves, each seeded, in one page-aligned arena.

They are those of real workloads: see ``docs/benchmarks/method.md`` for where each comes from.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from iser.errors import UsageError

__all__ = [
    "CORE_SHAPES",
    "COUNTS",
    "COUNT_NAMES",
    "EVERY_NAME",
    "MIX_FRACTIONS",
    "PAGE",
    "SHAPES",
    "SHAPE_NAMES",
    "Layout",
    "ShapeInfo",
    "element_count",
    "lay",
]

PAGE: Final = 4096
SECTOR: Final = 512
MIX_FRACTIONS: Final = (0.0, 0.01, 0.1, 0.5, 1.0)

Span = tuple[int, int]  # offset in the arena, length


class Layout(NamedTuple):
    """``spans`` in the order of the list, ``size`` bytes together, in an arena of ``arena`` bytes."""

    spans: list[Span]
    size: int
    arena: int


class ShapeInfo(NamedTuple):
    """What a shape is; ``read_only`` shapes make sense as the destination of a read only."""

    title: str
    make: Callable[[int, random.Random], list[Span]]
    read_only: bool = False
    smallest: int = SECTOR


def _contiguous(size: int, randomness: random.Random) -> list[Span]:
    return [(0, size)]


def _head_offset(size: int, randomness: random.Random) -> list[Span]:
    return [(SECTOR, size)]


def _pages(size: int, randomness: random.Random) -> list[int]:
    """Offsets of as many pages as ``size`` bytes need, shuffled, no two of them neighbours in order."""
    return _slots(-(-size // PAGE), randomness)


def _slots(count: int, randomness: random.Random, pitch: int = 2 * PAGE) -> list[int]:
    places = list(range(count))
    randomness.shuffle(places)
    return [place * pitch for place in places]


def _cut(offsets: list[int], lengths: list[int], size: int) -> list[Span]:
    """Spans of ``lengths`` at ``offsets`` until ``size`` bytes are reached; the last is cut short."""
    spans: list[Span] = []
    for offset, length in zip(offsets, lengths, strict=True):
        take = min(length, size)
        if take:
            spans.append((offset, take))
        size -= take
    return spans


def _shuffled_pages(size: int, randomness: random.Random) -> list[Span]:
    offsets = _pages(size, randomness)
    return _cut(offsets, [PAGE] * len(offsets), size)


def _head_and_tail(size: int, randomness: random.Random) -> list[Span]:
    """Shuffled pages, the first used from byte 3584 on, hence a short tail."""
    offsets = _slots(-(-(size - SECTOR) // PAGE) + 1, randomness)
    return _cut([offsets[0] + PAGE - SECTOR, *offsets[1:]], [SECTOR] + [PAGE] * (len(offsets) - 1), size)


def _sectors(size: int, randomness: random.Random) -> list[Span]:
    offsets = [slot + SECTOR * randomness.randrange(1, 8) for slot in _slots(size // SECTOR, randomness, PAGE)]
    return _cut(offsets, [SECTOR] * len(offsets), size)


def _slab_pairs(size: int, randomness: random.Random) -> list[Span]:
    """4 KiB buffers at offset 768 of a slab: the two parts lie in pages that do not follow each other."""
    offsets, lengths = [], []
    slots = _slots(2 * -(-size // PAGE), randomness)
    for first, second in zip(slots[::2], slots[1::2], strict=True):
        offsets += [first + 768, second]
        lengths += [PAGE - 768, 768]
    return _cut(offsets, lengths, size)


def _header_skew(size: int, randomness: random.Random) -> list[Span]:
    """Payload that follows a 76-byte header in each receive buffer."""
    count = -(-size // PAGE)
    return _cut([slot + 76 for slot in _slots(count, randomness, 3 * PAGE)], [PAGE] * count, size)


def _iovecs(size: int, randomness: random.Random) -> list[Span]:
    """Direct I/O vectors: lengths of whole sectors, addresses of whole words."""
    lengths: list[int] = []
    while sum(lengths) < size:
        lengths.append(SECTOR * randomness.randrange(1, 9))
    slots = _slots(len(lengths), randomness, 4 * PAGE)
    return _cut([slot + 4 * randomness.randrange(1, PAGE // 4) for slot in slots], lengths, size)


def _bytes(size: int, randomness: random.Random) -> list[Span]:
    lengths: list[int] = []
    while sum(lengths) < size:
        lengths.append(randomness.randrange(1, 8193))
    slots = _slots(len(lengths), randomness, 4 * PAGE)
    return _cut([slot + randomness.randrange(1, PAGE, 2) for slot in slots], lengths, size)


def _one_gap(size: int, randomness: random.Random) -> list[Span]:
    """Shuffled pages but for one seam in the middle."""
    offsets = _slots(size // PAGE + 2, randomness)
    lengths = [PAGE] * len(offsets)
    middle = size // PAGE // 2
    lengths[middle] = PAGE - SECTOR
    return _cut(offsets, lengths, size)


def _protected(size: int, randomness: random.Random) -> list[Span]:
    """512-byte sectors with 8 bytes of protection information between them."""
    return [(index * (SECTOR + 8), SECTOR) for index in range(size // SECTOR)]


def _message(size: int, randomness: random.Random) -> list[Span]:
    """A remote procedure call: a short head, pages, a short tail."""
    count = max(size // PAGE - 1, 0)
    offsets = _slots(count + 3, randomness)
    head = min(160, size - 1)
    return _cut([offsets[0] + 100, *offsets[1:-1], offsets[-1] + 12], [head] + [PAGE] * (count + 1) + [PAGE], size)


def _dummy_page(size: int, randomness: random.Random) -> list[Span]:
    """Every other page is the same one, as guests read into it what nobody wants."""
    offsets = _pages(size, randomness)
    dummy = 2 * PAGE * len(offsets)
    offsets = [dummy if index % 2 else offset for index, offset in enumerate(offsets)]
    return _cut(offsets, [PAGE] * len(offsets), size)


SHAPES: Final[dict[str, ShapeInfo]] = {
    "S0": ShapeInfo("contiguous", _contiguous),
    "S1": ShapeInfo("contiguous, 512 bytes into a page", _head_offset),
    "S2": ShapeInfo("shuffled pages", _shuffled_pages),
    "S3": ShapeInfo("shuffled pages, offset head and short tail", _head_and_tail, smallest=2 * SECTOR),
    "S4": ShapeInfo("512-byte sectors in random pages", _sectors),
    "S5": ShapeInfo("slab pairs (768, 3328) + (0, 768)", _slab_pairs),
    "S6": ShapeInfo("pages skewed by a 76-byte header", _header_skew),
    "S7": ShapeInfo("vectors of whole sectors at 4-byte offsets", _iovecs),
    "S8": ShapeInfo("random bytes, 1 to 8192 each", _bytes),
    "S9": ShapeInfo("shuffled pages with one gap", _one_gap, smallest=2 * PAGE),
    "S10": ShapeInfo("512-byte sectors with 8 bytes between", _protected),
    "S11": ShapeInfo("head, pages and tail of a message", _message),
    "S12": ShapeInfo("a dummy page again and again", _dummy_page, read_only=True, smallest=4 * PAGE),
}
SHAPE_NAMES: Final = (*SHAPES, *(f"Smix({fraction:g})" for fraction in MIX_FRACTIONS))
#: Shapes ``E1`` to ``E256`` are so many elements of equal length, for what one more of them costs.
COUNTS: Final = (1, 2, 4, 5, 8, 16, 64, 128, 256)
COUNT_NAMES: Final = tuple(f"E{count}" for count in COUNTS)
EVERY_NAME: Final = (*SHAPE_NAMES, *COUNT_NAMES)
CORE_SHAPES: Final = ("S0", "S2", "S4", "S5", "S8", "S9")


def element_count(name: str) -> int:
    """How many elements a shape ``E<count>`` has; 0 for the name of any other shape."""
    count = int(name[1:]) if name[:1] == "E" and name[1:].isdigit() else 0
    return count if count in COUNTS else 0


def _equal(count: int, size: int, randomness: random.Random) -> list[Span]:
    """``count`` elements at odd addresses, of one length but for the last."""
    length = size // count
    slots = _slots(count, randomness, (length // PAGE + 2) * PAGE)
    spans = [(slot + randomness.randrange(1, PAGE, 2), length) for slot in slots]
    return [*spans[:-1], (spans[-1][0], size - length * (count - 1))]


def lay(name: str, size: int, seed: int, serial: int = 0) -> Layout:
    """The layout of one list of ``size`` bytes; the same arguments give the same list.

    ``serial`` numbers the lists of one worker: under ``Smix(p)`` each list is of S4 or S8 with probability p, else S2.
    Raises UsageError for a shape that does not exist, or that is larger than ``size``.
    """
    randomness = random.Random(f"{name}/{size}/{seed}/{serial}")  # noqa: S311 - the same lists in every run
    if name.startswith("Smix("):
        fraction = float(name[5:-1])
        name = randomness.choice(("S4", "S8")) if randomness.random() < fraction else "S2"
    info = SHAPES.get(name)
    count = element_count(name)
    if count:
        info = ShapeInfo(f"{count} elements", partial(_equal, count), smallest=PAGE)
    if info is None:
        raise UsageError(f"shape {name!r} does not exist; choose among {', '.join(EVERY_NAME)}")
    if size < info.smallest:
        raise UsageError(f"shape {name} needs at least {info.smallest} bytes, not {size}")
    spans = info.make(size, randomness)
    end = max(offset + length for offset, length in spans)
    return Layout(spans, size, (end + 2 * PAGE - 1) // PAGE * PAGE)
