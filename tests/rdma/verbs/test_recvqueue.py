"""Receives: built once, told apart, bounded."""

from __future__ import annotations

import pytest

from iser.errors import MemoryRegionError, ResourceError
from iser.rdma.api import (
    WcOpcode,
    WcStatus,
    WorkCompletion,
)
from tests.rdma.verbs.conftest import End


async def test_receives_posted_early_reach_the_device_when_it_can_take_them(end: End) -> None:
    arena = end.pd.alloc_buffer(200)
    end.qp.post_recv(7, arena[:100])
    end.qp.post_recv(8, arena[100:])
    assert not end.raw.receives
    end.connect()
    assert [wr.elements[0][1] for wr in end.raw.receives] == [100, 100]
    await end.complete(end.raw.receives[0].wr_id, byte_len=33)
    assert end.log == [WorkCompletion(7, WcStatus.SUCCESS, WcOpcode.RECV, 33)]


async def test_a_receive_posted_again_is_not_built_again(end: End) -> None:
    slot = end.pd.alloc_buffer(100)
    end.connect()
    for number in range(3):
        end.qp.post_recv(number, slot)
        await end.complete(end.raw.receives[-1].wr_id, byte_len=1)
    assert len({id(wr) for wr in end.raw.receives}) == 1
    assert [each.wr_id for each in end.log] == [0, 1, 2]


async def test_the_key_that_a_peer_invalidated_is_told_whichever_flag_the_driver_sets(end: End) -> None:
    arena = end.pd.alloc_buffer(200)
    end.connect()
    for number, flags in enumerate((4, 8)):
        end.qp.post_recv(number, arena[100 * number : 100 * number + 100])
        await end.complete(end.raw.receives[-1].wr_id, byte_len=1, wc_flags=flags, imm_data=0x55)
    assert [each.invalidated_rkey for each in end.log] == [0x55, 0x55]


async def test_receives_past_the_limit_and_buffers_that_cannot_receive_are_refused(end: End) -> None:
    slots = [end.pd.alloc_buffer(10) for _ in range(9)]
    with pytest.raises(MemoryRegionError, match="writable"):
        end.qp.post_recv(0, memoryview(b"constant"))
    for number in range(8):
        end.qp.post_recv(number, slots[number])
    with pytest.raises(ResourceError, match="raise max_recv_wr"):
        end.qp.post_recv(8, slots[8])
