"""Cutting transfers: nothing lost, nothing too long, addresses where the bytes are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from iser.rdma.verbs.split import groups_of, split

ELEMENTS = st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 9000), st.integers(1, 9)), max_size=20)


@settings(max_examples=60)
@given(ELEMENTS, st.integers(0, 1 << 40), st.integers(1, 6))
def test_every_byte_goes_where_it_would_uncut(elements: list[tuple[int, int, int]], remote: int, limit: int) -> None:
    parts = split(elements, remote, limit)
    assert [element for group, _ in parts for element in group] == elements
    assert all(len(group) <= limit for group, _ in parts)
    for group, start in parts:
        assert start == remote
        remote += sum(length for _, length, _ in group)


def test_an_empty_transfer_is_one_request() -> None:
    assert split([], 7, 1) == [([], 7)]


@settings(max_examples=60)
@given(st.integers(0, 500), st.integers(1, 60))
def test_groups_cover_all_items(count: int, size: int) -> None:
    groups = groups_of(count, size)
    assert [item for start, end in groups for item in range(start, end)] == list(range(count))
    assert all(0 < end - start <= size for start, end in groups)
