"""Tests of iser.sg.strategies.multi_mr: several keys for one list."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import ResourceError
from iser.rdma.softiwarp.memory import REMOTE_READ
from iser.sg import Direction, SgList
from iser.sg.strategies.multi_mr import MultiMr
from iser.sg.strategies.split import runs
from tests.sg.devices import carry_out, remote
from tests.sg.lists import Arena, spans
from tests.sg.strategies.site import resources

SIZE = 1 << 20


@settings(deadline=None)
@given(spans, st.integers(1, 12))
def test_several_keys_cover_the_list_in_order_or_nothing_is_taken(cut: list[tuple[int, int]], limit: int) -> None:
    site = resources(limit)
    strategy = MultiMr(site)
    arena = Arena()
    arena.memory[:] = random.Random(1).randbytes(SIZE)
    sg = SgList.of(arena.cut(cut), writable=True)
    try:
        taken = strategy.register(sg, Direction.WRITE)
    except ResourceError:
        assert len(runs(sg, 1)) > limit
        assert site.page_lists.in_use == 0
        return
    for registration in taken:
        carry_out(registration)
    assert b"".join(view for each in taken for view in remote(each, 0, each.length, REMOTE_READ)) == sg.gather()
    assert site.counters.stags == len(taken) == len(runs(sg, 1))
    strategy.release(taken)
    assert site.page_lists.in_use == 0


@pytest.mark.parametrize(("most", "keys"), [(1, 4), (2, 3), (3, 2), (8, 2)])
def test_several_keys_ask_no_region_to_join_more_pieces_than_the_device_can(most: int, keys: int) -> None:
    strategy = MultiMr(resources(8, max_fragments=most))
    arena = Arena()
    arena.memory[:] = random.Random(2).randbytes(SIZE)
    pages = [(4096 * place, 4096) for place in (8, 2, 6)]
    sg = SgList.of(arena.cut([*pages, (4096 * 11 + 1, 100)]), writable=True)
    taken = strategy.register(sg, Direction.WRITE)
    for registration in taken:
        carry_out(registration)
    assert len(taken) == keys
    assert b"".join(view for each in taken for view in remote(each, 0, each.length, REMOTE_READ)) == sg.gather()
