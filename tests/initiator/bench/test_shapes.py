from __future__ import annotations

import pytest

from initiator.bench.shapes import COUNTS, MIX_FRACTIONS, SHAPE_NAMES, SHAPES, element_count, lay
from iser.errors import UsageError
from iser.sg import SgClass, SgList, shape_of
from iser.sg.shape import overlaps

SIZES = (512, 4096, 65536, 524288)
CLASSES = {
    "S0": SgClass.SINGLE,
    "S1": SgClass.SINGLE,
    "S2": SgClass.PAGE_ALIGNED,
    "S3": SgClass.PAGE_VEC,
    "S4": SgClass.SECTOR_GAPPY,
    "S5": SgClass.DWORD_GAPPY,
    "S6": SgClass.DWORD_GAPPY,
    "S7": SgClass.DWORD_GAPPY,
    "S8": SgClass.BYTE_GAPPY,
    "S9": SgClass.SECTOR_GAPPY,
    "S10": SgClass.DWORD_GAPPY,
    "S11": SgClass.DWORD_GAPPY,
}


def listed(name: str, size: int, serial: int = 0) -> SgList:
    layout = lay(name, size, 7, serial)
    # Offsets in a page are what a page-aligned arena makes of them.
    return SgList(
        [memoryview(bytes(length)) for _, length in layout.spans], *map(list, zip(*layout.spans, strict=True))
    )


@pytest.mark.parametrize("name", SHAPE_NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_every_list_has_its_size_lies_in_its_arena_and_overlaps_only_where_it_should(name: str, size: int) -> None:
    info = SHAPES.get(name)
    if info is not None and size < info.smallest:
        with pytest.raises(UsageError, match="at least"):
            lay(name, size, 1)
        return
    layout = lay(name, size, 1)
    sg = listed(name, size)
    assert sg.length == layout.size == size
    assert all(offset >= 0 and offset + length <= layout.arena for offset, length in layout.spans)
    assert layout.arena % 4096 == 0
    assert overlaps(sg) == (name == "S12")


@pytest.mark.parametrize("name", CLASSES)
def test_every_shape_is_of_its_class(name: str) -> None:
    assert shape_of(listed(name, 524288)).sg_class is CLASSES[name]


def test_one_gap_is_one_gap() -> None:
    assert shape_of(listed("S9", 65536)).gaps == 1
    assert shape_of(listed("S5", 65536)).gaps == 15


def test_the_same_arguments_give_the_same_list() -> None:
    assert lay("S8", 65536, 1) == lay("S8", 65536, 1)
    assert lay("S8", 65536, 1) != lay("S8", 65536, 2) != lay("S8", 65536, 1, 1)


@pytest.mark.parametrize("fraction", MIX_FRACTIONS)
def test_a_mixture_has_its_share_of_gappy_lists(fraction: float) -> None:
    gappy = sum(shape_of(listed(f"Smix({fraction:g})", 16384, serial)).gaps > 0 for serial in range(400))
    assert abs(gappy / 400 - fraction) < 0.1
    assert (gappy == 0) == (fraction == 0)


@pytest.mark.parametrize("count", COUNTS)
def test_so_many_elements(count: int) -> None:
    assert element_count(f"E{count}") == count
    assert len(lay(f"E{count}", 65536, 1).spans) == count


def test_no_such_shape() -> None:
    assert element_count("E3") == element_count("S4") == 0
    with pytest.raises(UsageError, match="choose among S0"):
        lay("S99", 4096, 1)
