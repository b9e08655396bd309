"""The cache of registrations: hits, limits, and objects that go away."""

from __future__ import annotations

import ctypes
import gc
import mmap

import pytest

from iser.errors import ResourceError
from iser.rdma.address import address_of
from iser.rdma.pages import pages_replaced
from iser.rdma.verbs.mrcache import PAGE, MrCache

READ, WRITE = 4, 3  # access flags


class Raw:
    """A registration that knows whether it is open."""

    def __init__(self, start: int, length: int, access: int, live: set[Raw]) -> None:
        self.start, self.length, self.access, self._live = start, length, access, live
        self.lkey = self.rkey = id(self)
        live.add(self)

    def close(self) -> None:
        self._live.remove(self)


class Registrar:
    def __init__(self, limit: int = 1 << 40, chunk: int = 4 * PAGE) -> None:
        self.live: set[Raw] = set()
        self.made = 0
        self.cache = MrCache(self.register, limit, chunk)

    def register(self, start: int, length: int, access: int) -> Raw:
        self.made += 1
        return Raw(start, length, access, self.live)


def mapping(pages: int) -> memoryview:
    return memoryview(mmap.mmap(-1, pages * PAGE))


def test_the_same_buffer_is_registered_once() -> None:
    registrar = Registrar()
    view = mapping(2)
    for _ in range(3):
        address, region = registrar.cache.take_remote(view[100:5000], WRITE)
        assert address == address_of(view) + 100
        registrar.cache.give(region)
    assert registrar.made == 1
    assert registrar.cache.statistics.hit_rate == pytest.approx(2 / 3)


def test_a_key_that_peers_see_covers_the_pages_of_its_buffer_and_one_kind_of_access() -> None:
    registrar = Registrar()
    view = mapping(8)
    _, written = registrar.cache.take_remote(view[PAGE + 1 : PAGE + 2], WRITE)
    _, read = registrar.cache.take_remote(view[PAGE + 1 : PAGE + 2], READ)
    assert (written.start, written.end) == (address_of(view) + PAGE, address_of(view) + 2 * PAGE)
    assert {raw.access for raw in registrar.live} == {READ, WRITE}
    assert written.rkey != read.rkey


def test_local_use_registers_chunks_that_neighbours_share() -> None:
    registrar = Registrar()
    view = mapping(10)
    first = registrar.cache.take_local(view[:10], 1)
    second = registrar.cache.take_local(view[2 * PAGE : 3 * PAGE], 1)
    assert first[0][2] is second[0][2]
    across = registrar.cache.take_local(view[3 * PAGE : 10 * PAGE], 1)
    assert [length for _, length, _ in across] == [PAGE, 4 * PAGE, 2 * PAGE]
    assert sum(raw.length for raw in registrar.live) == 10 * PAGE


def test_memory_that_can_move_is_registered_for_one_use() -> None:
    registrar = Registrar()
    data = bytearray(5000)
    _, region = registrar.cache.take_remote(memoryview(data), WRITE)
    (raw,) = registrar.live
    assert (raw.start, raw.length) == (address_of(memoryview(data)), 5000)
    registrar.cache.give(region)
    assert not registrar.live
    assert registrar.cache.statistics.transient == 1
    data.extend(b"still resizable")


def test_keys_that_peers_see_can_be_made_to_die_with_their_use() -> None:
    registrar = Registrar()
    cache = MrCache(registrar.register, keep_remote=False)
    view = mapping(1)
    cache.give(cache.take_remote(view, WRITE)[1])
    assert not registrar.live
    cache.give(cache.take_local(view, 1)[0][2])
    assert len(registrar.live) == 1, "nobody was told this one"


def test_registrations_go_with_their_object() -> None:
    registrar = Registrar()
    view = mapping(1)
    registrar.cache.give(registrar.cache.take_remote(view, WRITE)[1])
    assert len(registrar.live) == 1
    del view
    gc.collect()
    assert not registrar.live


def test_pages_given_back_to_the_system_are_registered_anew_and_no_others() -> None:
    """An UNMAP once left the device with pages that nobody else saw: a file system was not where it was written."""
    registrar = Registrar()
    memory = mmap.mmap(-1, 12 * PAGE)
    view = memoryview(memory)
    busy = registrar.cache.take_local(view[:PAGE], 1)[0][2]
    registrar.cache.give(registrar.cache.take_local(view[4 * PAGE : 5 * PAGE], 1)[0][2])
    untouched = registrar.cache.take_local(view[8 * PAGE : 9 * PAGE], 1)[0][2]
    pages_replaced(memory, PAGE, 4 * PAGE)
    assert {raw.start - address_of(view) for raw in registrar.live} == {0, 8 * PAGE}
    again = registrar.cache.take_local(view[:PAGE], 1)[0][2]
    assert again is not busy
    assert registrar.cache.take_local(view[8 * PAGE : 9 * PAGE], 1)[0][2] is untouched
    registrar.cache.give(busy)
    assert len(registrar.live) == 2
    pages_replaced(mmap.mmap(-1, PAGE), 0, PAGE)
    assert len(registrar.live) == 2


def test_a_registration_in_use_outlives_its_object_until_it_is_given_back() -> None:
    registrar = Registrar()
    view = mapping(1)
    _, region = registrar.cache.take_remote(view, WRITE)
    del view
    gc.collect()
    assert len(registrar.live) == 1
    registrar.cache.give(region)
    assert not registrar.live


def test_the_oldest_idle_ones_go_first_and_those_in_use_never() -> None:
    registrar = Registrar(limit=3 * PAGE)
    views = [mapping(1) for _ in range(4)]
    held = registrar.cache.take_remote(views[0], WRITE)[1]
    for view in views[1:]:
        registrar.cache.give(registrar.cache.take_remote(view, WRITE)[1])
    starts = {raw.start for raw in registrar.live}
    assert starts == {address_of(views[index]) for index in (0, 2, 3)}
    assert registrar.cache.statistics.evictions == 1
    assert registrar.cache.statistics.bytes == 3 * PAGE
    registrar.cache.give(held)


def test_a_limit_passed_by_what_is_in_use_is_met_again_afterwards() -> None:
    registrar = Registrar(limit=PAGE)
    views = [mapping(1) for _ in range(3)]
    held = [registrar.cache.take_remote(view, WRITE)[1] for view in views]
    assert len(registrar.live) == 3
    for region in held:
        registrar.cache.give(region)
    assert registrar.cache.statistics.bytes <= PAGE


def test_closing_deregisters_everything() -> None:
    registrar = Registrar()
    view, array = mapping(1), (ctypes.c_char * 9000)()
    registrar.cache.take_remote(view, WRITE)
    registrar.cache.take_remote(memoryview(bytearray(9)), WRITE)
    registrar.cache.give(registrar.cache.take_local(memoryview(array).cast("B"), 1)[0][2])
    registrar.cache.close()
    assert not registrar.live


def test_a_device_without_room_leaves_the_cache_as_it_was() -> None:
    def refuse(start: int, length: int, access: int) -> Raw:
        raise ResourceError("no room")

    cache = MrCache(refuse)
    view = mapping(1)
    with pytest.raises(ResourceError, match="no room"):
        cache.take_remote(view, WRITE)
    assert cache.statistics.bytes == 0
    assert not cache.evict_idle()
