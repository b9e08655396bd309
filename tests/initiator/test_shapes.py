from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initiator.shapes import MIN_ELEMENTS, Arena, layout
from iser.sg import SgClass, SgList, shape_of

PAGE = 4096


@pytest.mark.parametrize("kind", SgClass)
@given(seed=st.integers(0, 2**32), pages=st.integers(MIN_ELEMENTS, 64))
def test_every_layout_is_of_its_class_and_size(kind: SgClass, seed: int, pages: int) -> None:
    elements = layout(kind, pages * PAGE, random.Random(seed))
    arena = Arena(elements)
    views = SgList.of(arena.views, writable=True)
    assert shape_of(views).sg_class is kind
    assert views.length == pages * PAGE
    covered = sorted(elements)
    assert all(one + length < other for (one, length), (other, _) in pairwise(covered))


def test_the_same_seed_gives_the_same_layout() -> None:
    for kind in SgClass:
        first, second = (layout(kind, 16 * PAGE, random.Random(7)) for _ in range(2))
        assert first == second


def test_filling_an_arena_covers_all_of_it() -> None:
    arena = Arena([(5, 10)])
    arena.fill(b"abc")
    assert len(arena.memory) % PAGE == 0
    assert bytes(arena.memory[:7]) == b"abcabca"
    assert bytes(arena.views[0]) == (b"abc" * 9)[5:15]
