"""Tests of iser.sg.strategies.base: how large the lists of a connection may be."""

from __future__ import annotations

from iser.sg.strategies import Resources
from tests.sg.devices import domain


def test_a_list_of_pages_has_room_for_what_begins_off_a_page() -> None:
    pd, attributes = domain()
    resources = Resources(pd, attributes, depth=1, sg_tablesize=100, max_bytes=1 << 20)
    assert (resources.max_page_list, resources.sector_lists.max_num_sg) == (257, 2049)
    assert resources.sg_tablesize == 100


def test_the_device_has_the_last_word() -> None:
    pd, attributes = domain(max_page_list=64, max_sg_list=32)
    resources = Resources(pd, attributes, depth=1, sg_tablesize=100, max_bytes=1 << 20)
    assert (resources.max_page_list, resources.sg_tablesize) == (64, 32)
