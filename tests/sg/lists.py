"""Scatter-gather lists for tests, carved from one page-aligned arena so that every offset is exact."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field

from hypothesis import strategies as st

from iser.sg import SgList

__all__ = ["Arena", "carve", "pieces", "spans"]


@dataclass
class Arena:
    """``size`` bytes that begin at a page boundary."""

    size: int = 1 << 20
    memory: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self.memory = memoryview(mmap.mmap(-1, self.size))

    def cut(self, spans: list[tuple[int, int]]) -> list[memoryview]:
        """Views of (offset, length) spans."""
        return [self.memory[offset : offset + length] for offset, length in spans]


def carve(spans: list[tuple[int, int]], size: int = 1 << 20) -> SgList:
    """A list over (offset, length) spans of a fresh arena."""
    return SgList.of(Arena(size).cut(spans), writable=True)


def pieces(unit: int = 1, most: int = 12) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Spans that do not overlap, in any order, in multiples of ``unit`` bytes; neighbours may touch."""
    gaps = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=most)

    def lay(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
        spans, at = [], 0
        for gap, length in steps:
            at += gap * unit
            spans.append((at, length * unit))
            at += length * unit
        return spans

    return gaps.map(lay).flatmap(st.permutations)


#: Spans of every kind.
spans = st.one_of(pieces(1), pieces(512), pieces(4096, 4), st.just([(123, 4567)]))
