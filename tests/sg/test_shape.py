"""Tests of iser.sg.shape, against the definitions written out plainly."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.sg import SgClass, SgList, shape_of
from iser.sg.shape import BLOCK, SECTOR, overlaps
from tests.sg.lists import Arena, carve, pieces


class Plain:
    """A list by numbers only, so that every address is possible."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self.views: list[memoryview] = []
        self.addresses = [address for address, _ in spans]
        self.lengths = [length for _, length in spans]
        self.length = sum(self.lengths)


def gaps(spans: list[tuple[int, int]], block: int) -> int:
    """Neighbours between which a page list of ``block`` bytes breaks."""
    return sum(
        a + la != b and ((a + la) % block != 0 or b % block != 0) for (a, la), (b, _) in itertools.pairwise(spans)
    )


def expected_class(spans: list[tuple[int, int]]) -> SgClass:
    """Section by section, the first test that fits."""
    runs = 1 + sum(a + la != b for (a, la), (b, _) in itertools.pairwise(spans))
    if runs == 1:
        return SgClass.SINGLE
    if not gaps(spans, BLOCK):
        total = sum(length for _, length in spans)
        return SgClass.PAGE_VEC if spans[0][0] % BLOCK or total % BLOCK else SgClass.PAGE_ALIGNED
    if not gaps(spans, SECTOR):
        return SgClass.SECTOR_GAPPY
    if all(a % 4 == 0 and length % 4 == 0 for a, length in spans):
        return SgClass.DWORD_GAPPY
    return SgClass.BYTE_GAPPY


def blocks_touched(spans: list[tuple[int, int]]) -> int:
    """Entries of a page list: a block counts again when the list leaves it and comes back."""
    entries: list[int] = []
    end = None
    for address, length in spans:
        numbers = list(range(address // BLOCK, (address + length - 1) // BLOCK + 1))
        if address == end and entries[-1] == numbers[0]:
            numbers = numbers[1:]
        entries += numbers
        end = address + length
    return len(entries)


spans_of_any_kind = st.sampled_from([1, 4, 512, 4096]).flatmap(
    lambda unit: st.lists(
        st.tuples(st.integers(0, 64).map(lambda n: n * unit), st.integers(1, 24).map(lambda n: n * unit)),
        min_size=1,
        max_size=8,
    )
)


@given(spans_of_any_kind)
def test_every_list_has_the_class_that_the_definitions_give_it(spans: list[tuple[int, int]]) -> None:
    shape = shape_of(Plain(spans))
    assert shape.sg_class is expected_class(spans)
    assert shape.gaps == gaps(spans, BLOCK)
    assert shape.blocks == blocks_touched(spans)


@given(pieces(512))
def test_lists_without_gaps_are_what_a_page_list_can_describe(spans: list[tuple[int, int]]) -> None:
    shape = shape_of(carve(spans))
    fits = shape.sg_class in (SgClass.SINGLE, SgClass.PAGE_ALIGNED, SgClass.PAGE_VEC)
    assert fits == (shape.gaps == 0)


@pytest.mark.parametrize(
    ("spans", "sg_class"),
    [
        ([(3, 5)], SgClass.SINGLE),
        ([(0, 4096), (8192, 4096)], SgClass.PAGE_ALIGNED),
        ([(512, 3584), (8192, 100)], SgClass.PAGE_VEC),
        ([(0, 512), (1024, 512)], SgClass.SECTOR_GAPPY),
        ([(768, 3328), (8192, 768), (20480 + 4, 4)], SgClass.DWORD_GAPPY),
        ([(1, 100), (200, 1)], SgClass.BYTE_GAPPY),
    ],
)
def test_an_example_of_each_class(spans: list[tuple[int, int]], sg_class: SgClass) -> None:
    assert shape_of(carve(spans)).sg_class is sg_class


@settings(deadline=None)  # the plain model looks at each byte
@given(spans_of_any_kind)
def test_overlaps_are_found(spans: list[tuple[int, int]]) -> None:
    touched = [byte for address, length in spans for byte in range(address, address + length)]
    assert overlaps(Plain(spans)) == (len(set(touched)) < len(touched))


def test_shuffled_neighbours_do_not_overlap() -> None:
    arena = Arena()
    assert not overlaps(SgList.of(arena.cut([(4096, 100), (0, 4096)]), writable=True))
