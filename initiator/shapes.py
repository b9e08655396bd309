"""Buffers of each list class, carved from one arena, so that their offsets in a page are exact."""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator
from typing import Final

from iser.sg import SgClass

__all__ = ["MIN_ELEMENTS", "Arena", "layout"]

PAGE: Final = 4096
MIN_ELEMENTS: Final = 4
_SLOT: Final = 4 * PAGE  # an element and the distance to its neighbours

Element = tuple[int, int]  # offset in the arena, length


def layout(kind: SgClass, size: int, random_source: random.Random) -> list[Element]:
    """Elements of a list of class ``kind`` that hold ``size`` bytes together, in the order of the list.

    ``size`` is a multiple of 4096, of at least MIN_ELEMENTS pages.  Neighbours in the list are not neighbours in the
    arena.
    """
    if kind is SgClass.SINGLE:
        return [(random_source.randrange(1, PAGE), size)]
    lengths = list(_lengths(kind, size, random_source))
    slots = list(range(len(lengths)))
    random_source.shuffle(slots)
    elements = []
    for index, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        # Slots are apart by more than any element needs, so no two of them touch.
        elements.append((slot * _SLOT + PAGE + _head(kind, index, length, random_source), length))
    return elements


def _lengths(kind: SgClass, size: int, random_source: random.Random) -> Iterator[int]:
    if kind is SgClass.PAGE_ALIGNED:
        yield from [PAGE] * (size // PAGE)
        return
    if kind is SgClass.PAGE_VEC:
        head = random_source.randrange(1, PAGE)
        yield head
        yield from [PAGE] * (size // PAGE - 1)
        yield PAGE - head
        return
    unit = {SgClass.SECTOR_GAPPY: 512, SgClass.DWORD_GAPPY: 4, SgClass.BYTE_GAPPY: 1}[kind]
    left = size
    while left:
        length = min(left, random_source.randrange(1, 2 * PAGE // unit) * unit)
        yield length
        left -= length


def _head(kind: SgClass, index: int, length: int, random_source: random.Random) -> int:
    """Where in its page an element begins."""
    if kind is SgClass.PAGE_ALIGNED:
        return 0
    if kind is SgClass.PAGE_VEC:
        return PAGE - length if index == 0 else 0
    if kind is SgClass.SECTOR_GAPPY:
        return random_source.randrange(1, 8) * 512
    if kind is SgClass.DWORD_GAPPY:
        return random_source.randrange(1, PAGE // 512) * 512 + 4 * random_source.randrange(1, 128)
    return random_source.randrange(1, PAGE, 2)


class Arena:
    """Page-aligned memory, and what of it a list covers."""

    def __init__(self, elements: list[Element]) -> None:
        self.elements = elements
        end = max(offset + length for offset, length in elements)
        self.memory = memoryview(mmap.mmap(-1, (end + 2 * PAGE - 1) // PAGE * PAGE))

    @property
    def views(self) -> list[memoryview]:
        """The list."""
        return [self.memory[offset : offset + length] for offset, length in self.elements]

    def fill(self, pattern: bytes) -> None:
        """Set every byte, the list's and the rest, from a repeated ``pattern``."""
        times = -(-len(self.memory) // len(pattern))
        self.memory[:] = (pattern * times)[: len(self.memory)]
