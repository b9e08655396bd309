"""The work requests that configure mlx5's indirect keys, exactly as they are posted."""

from __future__ import annotations

import importlib
import logging
import mmap
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import ConnectionLost, MemoryRegionError, ResourceError
from iser.rdma.api import Access, DeviceCap, LocalInv, MrType, QpCap, RegMr, Send, WcStatus
from iser.rdma.verbs import mlx5 as mlx5_module
from iser.rdma.verbs import opened as opened_module
from iser.rdma.verbs.constants import OP_SEND, SEND_INLINE, SEND_SIGNALED
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.mlx5 import INLINE_BYTES, KEY_ENTRIES, Mkey, open_mlx5, post_list
from iser.rdma.verbs.options import MIN_SEND_DEPTH, VerbsOptions
from iser.rdma.verbs.split import Element
from iser.sg import SgList
from tests.rdma.verbs.conftest import End, turns
from tests.rdma.verbs.fakes import FakeContext, FakeError, FakePD, FakePyverbs, FakeQP, FakeSGE

ACCESS = 7
#: Where distributions put pyverbs, which no package registry has in a form that fits their libraries.
SYSTEM = "/usr/lib/python3/dist-packages"


def system_module(name: str) -> Any:
    """A module of the system's pyverbs; None where there is none."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    sys.path.append(SYSTEM)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
    finally:
        sys.path.remove(SYSTEM)
        root.handlers[:], root.level = before


#: pyverbs' own elements where they can be had, and in any case those that check what pyverbs' do.
SGES: list[Callable[[int, int, int], Any]] = [FakeSGE]
if (module := system_module("pyverbs.wr")) is not None:
    SGES.append(module.SGE)


class Key:
    """``Mlx5Mkey``."""

    def __init__(self, number: int) -> None:
        self.lkey = self.rkey = number

    def close(self) -> None: ...


class Recorder:
    """``Mlx5QP`` as far as a list needs it: builds between start and complete, refuses anything else."""

    def __init__(self) -> None:
        self.wr_id = self.wr_flags = 0
        self.building: list[tuple[int, int, int, int, list[Element]]] | None = None
        self.posted: list[tuple[int, int, int, int, list[Element]]] = []

    def wr_start(self) -> None:
        assert self.building is None
        self.building = []

    def wr_mr_list(self, mkey: Mkey, access_flags: int, sge_list: Sequence[FakeSGE]) -> None:
        assert self.building is not None
        assert 0 < len(sge_list) <= (INLINE_BYTES + 4) // 16
        elements = [(sge.addr, sge.length, sge.lkey) for sge in sge_list]
        self.building.append((self.wr_id, self.wr_flags, mkey.lkey, access_flags, elements))

    def wr_local_inv(self, invalidate_rkey: int) -> None:
        raise AssertionError("nothing is invalidated here")

    def wr_complete(self) -> None:
        assert self.building is not None
        self.posted += self.building
        self.building = None


def elements_of(count: int) -> list[Element]:
    return [(0x1000 + 100 * index, 3 + index % 5, 40 + index) for index in range(count)]


@pytest.mark.parametrize("sge", SGES)
def test_a_short_list_is_one_inline_request(sge: Callable[[int, int, int], Any]) -> None:
    qp = Recorder()
    assert post_list(qp, 6, SEND_SIGNALED, [Key(1)], ACCESS, elements_of(3), sge) == 1
    assert qp.posted == [(6, SEND_INLINE | SEND_SIGNALED, 1, ACCESS, elements_of(3))]


def test_a_long_list_is_a_key_over_keys_posted_together() -> None:
    qp = Recorder()
    elements = elements_of(KEY_ENTRIES + 2)
    keys = [Key(1), Key(2), Key(3)]
    assert post_list(qp, 8, SEND_SIGNALED, keys, ACCESS, elements, FakeSGE) == 3
    first, second, top = qp.posted
    assert first == (8, SEND_INLINE, 2, ACCESS, elements[:KEY_ENTRIES])
    assert second == (8, SEND_INLINE, 3, ACCESS, elements[KEY_ENTRIES:])
    # The keys below are zero-based: each is an entry from 0 on, as long as all of its own.
    lengths = [sum(length for _, length, _ in group) for group in (first[4], second[4])]
    assert top == (8, SEND_INLINE | SEND_SIGNALED, 1, ACCESS, [(0, lengths[0], 2), (0, lengths[1], 3)])


@settings(max_examples=40)
@given(st.integers(1, KEY_ENTRIES * KEY_ENTRIES))
def test_remote_byte_j_is_byte_j_of_the_list(count: int) -> None:
    qp = Recorder()
    elements = elements_of(count)
    keys = [Key(number) for number in range(1, 2 + -(-count // KEY_ENTRIES))]
    assert post_list(qp, 2, 0, keys, ACCESS, elements, FakeSGE) == len(qp.posted)
    configured = {lkey: entries for _, _, lkey, _, entries in qp.posted}
    below = configured.keys() - {1}
    flat = [
        leaf
        for entry in configured[1]
        for leaf in (configured[entry[2]] if below and entry[2] in below and entry[0] == 0 else [entry])
    ]
    assert flat == elements


def test_nothing_is_posted_when_the_builder_refuses() -> None:
    class Refusing(Recorder):
        def wr_complete(self) -> None:
            raise OSError("12: no room in the queue")

    qp = Refusing()
    with pytest.raises(OSError, match="no room"):
        post_list(qp, 2, 0, [Key(1)], ACCESS, elements_of(2), FakeSGE)
    assert not qp.posted


def test_the_system_has_what_is_called_or_none_of_it() -> None:
    dv, mkey, numbers = (
        system_module(f"pyverbs.providers.mlx5.{name}") for name in ("mlx5dv", "mlx5dv_mkey", "mlx5_enums")
    )
    if dv is None:
        assert mkey is None
        return
    for name in ("wr_id", "wr_flags", "wr_start", "wr_mr_list", "wr_local_inv", "wr_complete"):
        assert hasattr(dv.Mlx5QP, name)
    assert hasattr(mkey.Mlx5Mkey, "rkey")
    assert numbers.MLX5DV_MKEY_INIT_ATTR_FLAGS_REMOTE_INVALIDATE == mlx5_module._MKEY_REMOTE_INVALIDATE
    assert numbers.MLX5DV_QP_EX_WITH_MR_LIST == mlx5_module._OPS_MR_LIST
    assert numbers.MLX5DV_QP_EX_WITH_MKEY_CONFIGURE == mlx5_module._OPS_MKEY_CONFIGURE
    assert numbers.MLX5DV_QP_CREATE_DISABLE_SCATTER_TO_CQE == mlx5_module._QP_DISABLE_SCATTER_TO_CQE
    attr = dv.Mlx5DVQPInitAttr(comp_mask=5, send_ops_flags=6, create_flags=8)
    assert "With MR list, With Mkey configure" in str(attr)


class ListQP(FakeQP, Recorder):
    """A queue pair that takes both kinds of requests; ``order`` says in which order they came."""

    max_inline = INLINE_BYTES

    def __init__(self, pd: FakePD, init: SimpleNamespace) -> None:
        FakeQP.__init__(self, pd, init)
        Recorder.__init__(self)
        self.invalidated: list[tuple[int, int, int]] = []

    def wr_local_inv(self, invalidate_rkey: int) -> None:
        self.invalidated.append((self.wr_id, self.wr_flags, invalidate_rkey))


class FakeMlx5:
    """:class:`iser.rdma.verbs.mlx5.Mlx5`."""

    max_list = 2048
    sge = FakeSGE

    def __init__(self) -> None:
        self.context = FakeContext("mlx5_0")
        self.keys: list[Key] = []

    def make_key(self, pd: FakePD, entries: int) -> Key:
        self.keys.append(Key(0xA00 + len(self.keys)))
        return self.keys[-1]

    def make_qp(self, pd: FakePD, cq: object, cap: SimpleNamespace) -> ListQP:
        assert cap.max_inline_data >= INLINE_BYTES
        return ListQP(pd, SimpleNamespace(scq=cq, cap=cap))


@pytest.fixture
def mlx5_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[VerbsDevice]:
    monkeypatch.setattr(opened_module, "load_pyverbs", FakePyverbs)
    monkeypatch.setattr(opened_module, "open_mlx5", lambda name: FakeMlx5())
    monkeypatch.setattr(FakeContext, "pinned", 0)
    yield VerbsDevice("mlx5_0", VerbsOptions(linger_timeout=0.02))
    assert FakeContext.pinned == 0, "memory stays registered"


def scattered(memory: memoryview, count: int) -> SgList:
    return SgList.of([memory[16 * index : 16 * index + 5 + index % 3] for index in range(count)], writable=True)


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


def test_devices_of_other_drivers_have_no_such_keys() -> None:
    assert open_mlx5("lo_is_no_rdma_device") is None
