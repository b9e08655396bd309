"""Protection domains: memory of our own, and what becomes of it all at the end."""

from __future__ import annotations

import gc
import mmap
from typing import cast

import pytest

from iser.errors import MemoryRegionError, ResourceError, UsageError
from iser.rdma.address import address_of
from iser.rdma.api import Access, MrType
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.memory import COPY_LIMIT, Hold, VerbsProtectionDomain
from iser.sg import SgList
from tests.rdma.verbs.conftest import End, mapping
from tests.rdma.verbs.fakes import FakeContext, FakeMR, FakePD


def domain(device: VerbsDevice) -> tuple[VerbsProtectionDomain, set[FakeMR]]:
    pd = cast("VerbsProtectionDomain", device.alloc_pd())
    return pd, cast("FakePD", pd.raw).live


async def test_a_buffer_of_ours_is_registered_while_somebody_has_a_view_of_it(device: VerbsDevice) -> None:
    pd, live = domain(device)
    view = pd.alloc_buffer(5000)
    part = view[100:200]
    hold: Hold = []
    ((address, length, lkey),) = pd.elements((part,), hold)
    assert (address, length, hold) == (address_of(view) + 100, 100, [])
    assert lkey in {mr.lkey for mr in live}
    del view
    gc.collect()
    assert len(live) == 1
    del part
    gc.collect()
    assert not live
    pd.close()


async def test_a_peer_is_not_told_the_key_that_we_use_ourselves(device: VerbsDevice) -> None:
    pd, live = domain(device)
    view = pd.alloc_buffer(4096)
    region = pd.alloc_mr(MrType.MEM_REG, 1)
    region.map_sg(SgList.of(view[:100], writable=True))
    assert region.next_key(Access.REMOTE_READ) not in pd.elements((view,), [])[0]
    assert {mr.access for mr in live} == {1, 4}
    pd.close()
    assert not live


async def test_memory_of_others_is_held_for_as_long_as_the_request_lasts(device: VerbsDevice) -> None:
    pd, live = domain(device)
    data = bytearray(9000)
    hold: Hold = []
    pd.elements((memoryview(data)[5:],), hold)
    assert len(live) == 1
    pd.drop(hold)
    assert not live
    assert not hold
    pd.close()


async def test_the_sink_of_a_read_allows_what_an_iwarp_card_asks_for(
    device: VerbsDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "is_iwarp", True)
    pd, live = domain(device)
    view = pd.alloc_buffer(100)
    hold: Hold = []
    pd.elements((view,), hold, sink=True)
    assert {mr.access for mr in live} == {1, 3}
    pd.drop(hold)
    pd.close()


async def test_only_small_pieces_of_passing_memory_are_copied(device: VerbsDevice) -> None:
    pd, _ = domain(device)
    passing, lasting = memoryview(bytes(100)), memoryview(mmap.mmap(-1, 100))
    assert pd.must_copy((passing,), 100)
    assert not pd.must_copy((lasting,), 100)
    assert not pd.must_copy((passing,), COPY_LIMIT + 1)
    del lasting
    pd.close()


async def test_slots_are_used_again(device: VerbsDevice) -> None:
    pd, live = domain(device)
    hold: Hold = [pd.take_slot(600)]
    slot = hold[0]
    assert not isinstance(slot, type(None))
    pd.drop(hold)
    assert pd.take_slot(1000) is slot
    assert len(live) == 1
    pd.close()


async def test_a_region_refuses_what_it_cannot_do(device: VerbsDevice) -> None:
    pd, _ = domain(device)
    region = pd.alloc_mr(MrType.MEM_REG, 1)
    with pytest.raises(MemoryRegionError, match="call map_sg first"):
        region.next_key(Access.REMOTE_READ)
    with pytest.raises(MemoryRegionError, match="maps nothing"):
        region.map_sg(SgList.of([], writable=False))
    region.map_sg(SgList.of(bytes(100), writable=False))
    with pytest.raises(MemoryRegionError, match="read-only"):
        region.next_key(Access.LOCAL_WRITE | Access.REMOTE_WRITE)
    region.close()
    with pytest.raises(MemoryRegionError, match="is closed"):
        region.map_sg(SgList.of(bytes(100), writable=False))
    pd.close()
    with pytest.raises(UsageError, match="closed; allocate another"):
        pd.alloc_mr(MrType.MEM_REG, 1)
    with pytest.raises(UsageError, match="give at least 1"):
        pd.alloc_buffer(0)


async def test_a_device_without_room_is_asked_again_after_idle_memory_went(
    end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = mapping(64 << 10), mapping(64 << 10)
    end.pd.cache.give(end.pd.take_remote(first, 1))
    monkeypatch.setattr(FakeContext, "memlock", FakeContext.pinned + 4096)
    end.pd.cache.give(end.pd.take_remote(second, 1))
    assert end.pd.cache.statistics.evictions == 1
    monkeypatch.setattr(FakeContext, "memlock", FakeContext.pinned)
    held = end.pd.take_remote(second, 1)
    with pytest.raises(ResourceError, match=r"RLIMIT_MEMLOCK|no memory left to pin"):
        end.pd.alloc_buffer(4096)
    end.pd.cache.give(held)


async def test_lists_that_a_region_cannot_hold_are_refused(device: VerbsDevice) -> None:
    pd = device.alloc_pd()
    with pytest.raises(ResourceError, match="has 1 to 1"):
        pd.alloc_mr(MrType.SG_GAPS, 2)
    pd.close()
