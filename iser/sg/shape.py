"""What a scatter-gather list looks like to a page list: its gaps, blocks and class.

A *gap* lies between two neighbours that do not follow each other in memory, unless the first ends and the second begins
at a block boundary.  A page list can describe a list without gaps, since only its first byte and its last may stand off
a block boundary.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from iser.rdma.api import ScatterList

__all__ = ["BLOCK", "SECTOR", "Shape", "SgClass", "overlaps", "shape_of"]

BLOCK: Final = 4096
SECTOR: Final = 512


class SgClass(Enum):
    """The class of a list: the first that fits, in this order."""

    SINGLE = "SINGLE"
    PAGE_ALIGNED = "PAGE_ALIGNED"
    PAGE_VEC = "PAGE_VEC"
    SECTOR_GAPPY = "SECTOR_GAPPY"
    DWORD_GAPPY = "DWORD_GAPPY"
    BYTE_GAPPY = "BYTE_GAPPY"


class Shape(NamedTuple):
    """``elements`` after joining neighbours; ``gaps`` at the block size; ``blocks`` that a page list needs."""

    sg_class: SgClass
    elements: int
    gaps: int
    blocks: int


def shape_of(sg: ScatterList, block: int = BLOCK) -> Shape:
    """Classify a non-empty list, in one pass.  ``block`` is a power of two."""
    addresses, lengths = sg.addresses, sg.lengths
    mask = block - 1
    shift = mask.bit_length()
    start = addresses[0]
    end = start + lengths[0]
    bits = start | lengths[0]
    elements, gaps, blocks, edges = 1, 0, ((end - 1) >> shift) - (start >> shift) + 1, 0
    for address, length in zip(addresses[1:], lengths[1:], strict=True):
        bits |= address | length
        if address != end:
            elements += 1
            edge = end | address
            edges |= edge
            gaps += (edge & mask) != 0
            blocks += ((address + length - 1) >> shift) - (address >> shift) + 1
        else:
            blocks += ((address + length - 1) >> shift) - ((end - 1) >> shift)
        end = address + length
    return Shape(_class_of(elements, gaps, start, sg.length, edges, bits, mask), elements, gaps, blocks)


def _class_of(elements: int, gaps: int, start: int, length: int, edges: int, bits: int, mask: int) -> SgClass:
    if elements == 1:
        return SgClass.SINGLE
    if not gaps:
        return SgClass.PAGE_VEC if (start | length) & mask else SgClass.PAGE_ALIGNED
    if not edges & (SECTOR - 1):
        return SgClass.SECTOR_GAPPY
    return SgClass.BYTE_GAPPY if bits & 3 else SgClass.DWORD_GAPPY


def overlaps(sg: ScatterList) -> bool:
    """True when a byte of memory stands in the list twice.  Linear for a list in ascending order."""
    addresses, lengths = sg.addresses, sg.lengths
    end = 0
    for address, length in zip(addresses, lengths, strict=True):
        if address < end:
            break
        end = address + length
    else:
        return False
    end = 0
    for address, length in sorted(zip(addresses, lengths, strict=True)):
        if address < end:
            return True
        end = address + length
    return False
