"""Regions over any list: what is posted for them, and when their keys are valid."""

from __future__ import annotations

import mmap
from typing import cast

import pytest

from iser.errors import ConnectionLost, MemoryRegionError, ResourceError
from iser.rdma.api import Access, DeviceCap, LocalInv, MrType, QpCap, RegMr, Send, WcStatus
from iser.rdma.verbs.constants import OP_SEND, SEND_INLINE, SEND_SIGNALED
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.options import MIN_SEND_DEPTH
from iser.sg import SgList
from tests.rdma.verbs.conftest import End, turns
from tests.rdma.verbs.fakes import FakeError
from tests.rdma.verbs.mlx5 import ListQP, scattered


async def test_a_gappy_list_is_one_request_before_the_command_and_one_to_end_it(mlx5_device: VerbsDevice) -> None:
    assert mlx5_device.attributes.caps == DeviceCap.MEM_MGT_EXTENSIONS | DeviceCap.SG_GAPS_REG
    end = End(mlx5_device, QpCap(64, 8))
    end.connect()
    raw = cast("ListQP", end.raw)
    region = end.pd.alloc_mr(MrType.SG_GAPS, 16)
    sg = scattered(memoryview(mmap.mmap(-1, 4096)), 6)
    assert region.map_sg(sg) == 6
    key = region.next_key(Access.REMOTE_READ)
    assert (key, region.iova, region.length) == (region.rkey, 0, sg.length)
    end.qp.post_send(RegMr(None, region, key, Access.REMOTE_READ), Send(None, (memoryview(b"cmd"),), signaled=False))
    ((wr_id, flags, lkey, access, entries),) = raw.posted
    assert (flags, lkey, access) == (SEND_INLINE, region.lkey, int(Access.REMOTE_READ))
    assert [(address, length) for address, length, _ in entries] == list(zip(sg.addresses, sg.lengths, strict=True))
    assert {local for _, _, local in entries} <= {mr.lkey for mr in raw.pd.live}
    assert [(sent.opcode, sent.wr_id > wr_id) for sent in raw.sends] == [(OP_SEND, True)]
    with pytest.raises(MemoryRegionError, match="must be free"):
        end.qp.post_send(RegMr(None, region, key, Access.REMOTE_READ))
    end.qp.post_send(LocalInv("inv", key, signaled=True))
    assert raw.invalidated == [(raw.sends[-1].wr_id + 2, SEND_SIGNALED, key)]
    assert end.pd.valid_keys == 0
    await end.complete(raw.invalidated[0][0])
    assert [each.wr_id for each in end.log] == ["inv"]
    assert end.qp._sends.credits == 64
    await end.close()


async def test_a_long_list_takes_as_many_places_in_the_queue_as_it_has_requests(mlx5_device: VerbsDevice) -> None:
    end = End(mlx5_device, QpCap(64, 8))
    end.connect()
    raw = cast("ListQP", end.raw)
    region = end.pd.alloc_mr(MrType.SG_GAPS, 300)
    before = end.qp._sends.credits
    sg = scattered(memoryview(mmap.mmap(-1, 8192)), 200)
    region.map_sg(sg)
    end.qp.post_send(RegMr("reg", region, region.rkey, Access.REMOTE_WRITE, signaled=True))
    assert len(raw.posted) == 5
    assert end.qp._sends.credits == before - 5
    await end.complete(raw.posted[-1][0])
    assert [each.wr_id for each in end.log] == ["reg"]
    assert end.qp._sends.credits == before
    await end.close()


async def test_a_key_that_the_peer_invalidated_is_free_again(mlx5_device: VerbsDevice) -> None:
    end = End(mlx5_device, QpCap(64, 8))
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.connect()
    region = end.pd.alloc_mr(MrType.MEM_REG, 2000)
    sg = SgList.of(memoryview(mmap.mmap(-1, 4096)), writable=True)
    for _ in range(2):
        region.map_sg(sg)
        end.qp.post_send(RegMr(None, region, region.rkey, Access.REMOTE_WRITE))
        if end.raw.receives:
            wr = end.raw.receives.pop()
            await end.complete(wr.wr_id, byte_len=9, wc_flags=8, imm_data=region.rkey)
            assert end.log[-1].invalidated_rkey == region.rkey
            assert not region.valid
    assert region.valid
    await end.close()


async def test_a_region_that_the_device_refused_to_register_is_not_valid(
    mlx5_device: VerbsDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise FakeError("12: no room in the queue")

    end = End(mlx5_device, QpCap(64, 8))
    end.connect()
    region = end.pd.alloc_mr(MrType.SG_GAPS, 16)
    region.map_sg(scattered(memoryview(mmap.mmap(-1, 4096)), 6))
    monkeypatch.setattr(end.raw, "wr_complete", refuse)
    end.qp.post_send(RegMr("reg", region, region.rkey, Access.REMOTE_READ))
    assert not region.valid
    assert end.pd.valid_keys == 0
    await end.close()
    assert [(each.wr_id, each.status) for each in end.log] == [("reg", WcStatus.WR_FLUSH_ERR)]


async def test_of_regions_at_the_end_of_a_connection_only_those_that_the_device_had_may_be_valid(
    mlx5_device: VerbsDevice,
) -> None:
    end = End(mlx5_device, QpCap(MIN_SEND_DEPTH, 8))
    end.connect()
    regions = [end.pd.alloc_mr(MrType.SG_GAPS, 16) for _ in range(MIN_SEND_DEPTH + 2)]
    for region in regions:
        region.map_sg(scattered(memoryview(mmap.mmap(-1, 4096)), 6))
        end.qp.post_send(RegMr(None, region, region.rkey, Access.REMOTE_READ))
    end.qp.abort(ConnectionLost("ended by the test"))
    while end.qp._sends.backlog:
        await turns()
    assert [region.valid for region in regions] == [True] * MIN_SEND_DEPTH + [False] * 2
    await end.close()


async def test_lists_beyond_keys_over_keys_are_refused(mlx5_device: VerbsDevice) -> None:
    pd = mlx5_device.alloc_pd()
    with pytest.raises(ResourceError, match="has 1 to 2048"):
        pd.alloc_mr(MrType.SG_GAPS, 2049)
    region = pd.alloc_mr(MrType.SG_GAPS, 4)
    with pytest.raises(MemoryRegionError, match="split the list"):
        region.map_sg(scattered(memoryview(mmap.mmap(-1, 4096)), 5))
    pd.close()
    await turns()
