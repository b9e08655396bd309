"""What a scatter-gather list looks like to a page list: its gaps, blocks and class.

A *gap* lies between two neighbours that do not follow each other in memory, unless the first ends and the second begins
at a block boundary.  A page list can describe a list without gaps, since only its first byte and its last may stand off
a block boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, IntFlag
from functools import reduce
from itertools import islice
from operator import add, gt, le, or_, sub
from typing import Final

from iser.rdma.api import ScatterList

__all__ = ["BLOCK", "SECTOR", "SgClass", "SgFlag", "Shape", "flags_of", "has_gaps", "overlaps", "shape_of"]

BLOCK: Final = 4096
SECTOR: Final = 512
_EXACT: Final = 1 << 53  # integers up to here are floats, too


class SgClass(Enum):
    """The class of a list: the first that fits, in this order."""

    SINGLE = "SINGLE"
    PAGE_ALIGNED = "PAGE_ALIGNED"
    PAGE_VEC = "PAGE_VEC"
    SECTOR_GAPPY = "SECTOR_GAPPY"
    DWORD_GAPPY = "DWORD_GAPPY"
    BYTE_GAPPY = "BYTE_GAPPY"


class SgFlag(IntFlag):
    """What a class does not tell.

    OVERSIZE: more blocks or elements than the table holds.  OVERLAP: a byte stands in the list twice, which is fine
    as a source; as a destination the outcome would depend on the order of arrival.  MIXED_KEY: neighbours belong to
    memory of different keys, which breaks a page list but not a list of elements.
    """

    OVERSIZE = 1
    OVERLAP = 2
    MIXED_KEY = 4


class Shape:
    """``elements`` after joining neighbours; ``gaps`` at the block size; ``blocks`` that a page list needs.

    The blocks are counted when first asked for: a list that no page list describes needs no such count.
    """

    __slots__ = ("_addresses", "_blocks", "_lengths", "_shift", "elements", "gaps", "sg_class")

    def __init__(self, sg_class: SgClass, elements: int, gaps: int, sg: ScatterList, shift: int) -> None:
        self.sg_class = sg_class
        self.elements = elements
        self.gaps = gaps
        # Not the list, which refers to its shape: the cycle would hold the caller's memory until it is collected.
        self._addresses = sg.addresses
        self._lengths = sg.lengths
        self._shift = shift
        self._blocks = 0

    @property
    def blocks(self) -> int:
        """Entries of a page list; a block counts again when the list leaves it and comes back."""
        if not self._blocks:
            self._blocks = _count_blocks(self._addresses, self._lengths, self._shift)
        return self._blocks

    def __repr__(self) -> str:
        return f"<Shape {self.sg_class.value}, {self.elements} elements, {self.gaps} gaps, {self.blocks} blocks>"


def shape_of(sg: ScatterList, block: int = BLOCK) -> Shape:
    """Classify a non-empty list.  ``block`` is a power of two.

    Loops run inside the interpreter's own C code as far as they can: this is a cost per element of each I/O.
    """
    addresses, lengths = sg.addresses, sg.lengths
    mask = block - 1
    count = len(addresses)
    if count == 1:
        return Shape(SgClass.SINGLE, 1, 0, sg, mask.bit_length())
    # A seam is where two neighbours do not touch: the bits of both its edges.
    seams = [end | start for end, start in zip(map(add, addresses, lengths), addresses[1:]) if end != start]  # noqa: B905 - the last end has no start after it
    gaps = len([seam for seam in seams if seam & mask])
    return Shape(_class_of(sg, seams, gaps, mask), len(seams) + 1, gaps, sg, mask.bit_length())


def has_gaps(addresses: Sequence[int], lengths: Sequence[int], block: int = BLOCK) -> bool:
    """True when no page list of ``block`` bytes describes the list.  Looks no further than the first gap."""
    mask = block - 1
    for end, start in zip(map(add, addresses, lengths), islice(addresses, 1, None)):  # noqa: B905 - as in shape_of
        if end != start and (end | start) & mask:
            return True
    return False


def _class_of(sg: ScatterList, seams: list[int], gaps: int, mask: int) -> SgClass:
    if not seams:
        return SgClass.SINGLE
    if not gaps:
        return SgClass.PAGE_VEC if (sg.addresses[0] | sg.length) & mask else SgClass.PAGE_ALIGNED
    if not reduce(or_, seams) & (SECTOR - 1):
        return SgClass.SECTOR_GAPPY
    return SgClass.BYTE_GAPPY if (reduce(or_, sg.addresses) | reduce(or_, sg.lengths)) & 3 else SgClass.DWORD_GAPPY


def _count_blocks(addresses: Sequence[int], lengths: Sequence[int], shift: int) -> int:
    blocks, end, last = 0, -1, -1
    for address, length in zip(addresses, lengths, strict=True):
        first = address >> shift
        if address == end and first == last:
            first += 1
        end = address + length
        last = (end - 1) >> shift
        blocks += last - first + 1
    return blocks


def overlaps(sg: ScatterList) -> bool:
    """True when a byte of memory stands in the list twice.  Linear for a list in ascending order."""
    starts, lengths = sg.addresses, sg.lengths
    if all(map(le, map(add, starts, lengths), islice(starts, 1, None))):
        return False
    # Python sorts floats in less than half the time of integers of this size.
    kind: Callable[[int], float] = float if max(starts) + max(lengths) <= _EXACT else int
    order = sorted(map(kind, starts))
    if min(map(sub, islice(order, 1, None), order)) >= max(lengths):
        return False  # they begin further apart than any of them is long
    # Disjoint pieces end, one after the other, before the next begins; then both sequences have the same order.
    return any(map(gt, sorted(map(kind, map(add, starts, lengths))), islice(order, 1, None)))


def flags_of(sg: ScatterList, shape: Shape, max_entries: int, keys: Sequence[object] = ()) -> SgFlag:
    """The flags of a list against a table of ``max_entries`` blocks or elements; ``keys`` of the elements if known."""
    flags = SgFlag(0)
    if len(sg.addresses) > max_entries or shape.blocks > max_entries:
        flags |= SgFlag.OVERSIZE
    if overlaps(sg):
        flags |= SgFlag.OVERLAP
    if len(set(keys)) > 1:
        flags |= SgFlag.MIXED_KEY
    return flags
