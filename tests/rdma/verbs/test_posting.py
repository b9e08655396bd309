"""What becomes of a work request: copied, gathered, cut, or carried out without the device."""

from __future__ import annotations

import pytest

from iser.errors import LocalProtocolError, MemoryRegionError
from iser.rdma.api import (
    Access,
    LocalInv,
    MrType,
    RdmaRead,
    RdmaWrite,
    RegMr,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
)
from iser.rdma.verbs.constants import (
    OP_RDMA_READ,
    OP_SEND,
    SEND_INLINE,
    SEND_SIGNALED,
)
from iser.sg import SgList
from tests.rdma.verbs.conftest import End, mapping, turns


async def test_a_small_message_goes_inline_and_its_memory_may_change_at_once(end: End) -> None:
    end.connect()
    end.qp.post_send(Send("a", (memoryview(b"abc"), memoryview(b"de")), signaled=True))
    (sent,) = end.raw.sends
    assert (sent.opcode, sent.flags) == (OP_SEND, SEND_INLINE | SEND_SIGNALED)
    assert sent.elements[0][1] == 5
    await end.complete(sent.wr_id)
    assert end.log == [WorkCompletion("a", WcStatus.SUCCESS, WcOpcode.SEND, 0)]


async def test_a_larger_message_is_copied_into_registered_memory_used_again_when_it_is_done(end: End) -> None:
    end.connect()
    for _ in range(3):
        end.qp.post_send(Send(None, (memoryview(bytes(300)),), signaled=True))
        await end.complete(end.raw.sends[-1].wr_id)
    assert len({sent.elements for sent in end.raw.sends}) == 1
    address, length, lkey = end.raw.sends[0].elements[0]
    assert length == 300
    assert any(mr.lkey == lkey and mr.address <= address < mr.address + mr.length for mr in end.raw.pd.live)


async def test_small_pieces_that_could_only_be_registered_once_are_copied(end: End) -> None:
    end.connect()
    before = end.raw.pd.live.copy()
    end.qp.post_send(RdmaWrite(None, [memoryview(b"inquiry data")], 0, 7))
    assert end.raw.pd.live == before
    assert end.raw.sends[0].elements[0][1] == 12


async def test_an_ordinary_region_is_registered_by_its_post_and_given_back_by_its_invalidation(end: End) -> None:
    end.connect()
    memory = mapping(3 * 4096)
    region = end.pd.alloc_mr(MrType.MEM_REG, 8)
    assert region.map_sg(SgList.of(memory[100:5000], writable=True)) == 1
    key = region.next_key(Access.REMOTE_READ)
    assert end.pd.valid_keys == 0
    end.qp.post_send(RegMr("reg", region, key, Access.REMOTE_READ, signaled=True))
    assert (region.rkey, region.valid, end.pd.valid_keys) == (key, True, 1)
    assert not end.raw.sends, "no request of the device does this"
    with pytest.raises(MemoryRegionError, match="invalidate it before"):
        region.map_sg(SgList.of(memory, writable=True))
    end.qp.post_send(LocalInv("inv", key, signaled=True))
    assert (region.valid, end.pd.valid_keys) == (False, 0)
    assert not end.log
    await turns()
    assert [(each.wr_id, each.opcode) for each in end.log] == [("reg", WcOpcode.REG_MR), ("inv", WcOpcode.LOCAL_INV)]
    with pytest.raises(MemoryRegionError, match="no valid region"):
        end.qp.post_send(LocalInv(None, key))


async def test_two_commands_over_one_buffer_share_a_registration_and_each_has_its_own_end(end: End) -> None:
    end.connect()
    memory = mapping(4096)
    keys = []
    for _ in range(2):
        region = end.pd.alloc_mr(MrType.MEM_REG, 1)
        region.map_sg(SgList.of(memory, writable=True))
        keys.append(region.next_key(Access.REMOTE_READ))
        end.qp.post_send(RegMr(None, region, keys[-1], Access.REMOTE_READ))
    assert keys[0] == keys[1]
    assert end.pd.valid_keys == 2
    end.qp.post_send(LocalInv(None, keys[0]))
    assert end.pd.valid_keys == 1
    end.qp.post_send(LocalInv(None, keys[0]))
    assert end.pd.valid_keys == 0


async def test_a_read_is_cut_to_what_the_device_places_and_completes_with_its_last_part(end: End) -> None:
    end.connect()
    view = mapping(3 * 4096)
    end.qp.post_send(RdmaRead("read", [view[0:10], view[20:40], view[50:60]], 1000, 7))
    assert [(sent.opcode, sent.remote, sent.elements[0][1]) for sent in end.raw.sends] == [
        (OP_RDMA_READ, 1000, 10),
        (OP_RDMA_READ, 1010, 20),
        (OP_RDMA_READ, 1030, 10),
    ]
    first, second, third = (sent.wr_id for sent in end.raw.sends)
    await end.complete(third, first)
    assert not end.log
    await end.complete(second)
    assert end.log == [WorkCompletion("read", WcStatus.SUCCESS, WcOpcode.RDMA_READ, 40)]


async def test_reads_of_a_peer_that_serves_none_are_refused(end: End) -> None:
    end.connect(read_depth=0)
    with pytest.raises(LocalProtocolError, match="serves no RDMA Reads"):
        end.qp.post_send(RdmaRead(1, [mapping(10)], 0, 7))
