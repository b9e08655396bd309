"""The device: limits, domains, buffers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iser.errors import ResourceError, UsageError
from iser.rdma.api import CompletionQueue, DeviceCap, MrType, QpCap
from iser.rdma.softiwarp.options import DEFAULT_ATTRIBUTES, SoftIwarpOptions
from tests.rdma.softiwarp.support import Peer, buffer, new_device


class _OtherQueue(CompletionQueue):
    def close(self) -> None:
        """Nothing to do."""


def test_the_device_says_what_it_can() -> None:
    attributes = new_device().attributes
    assert attributes.caps == DeviceCap.MEM_MGT_EXTENSIONS | DeviceCap.SG_GAPS_REG
    assert attributes.max_qp_rd_atom >= 16


@pytest.mark.parametrize("kind", list(MrType))
def test_regions_have_a_limited_number_of_entries(kind: MrType) -> None:
    limits = replace(DEFAULT_ATTRIBUTES, max_page_list=7, max_sg_list=7)
    pd = new_device(SoftIwarpOptions(attributes=limits)).alloc_pd()
    assert pd.alloc_mr(kind, 7).kind is kind
    for entries in (0, 8):
        with pytest.raises(ResourceError, match="1 to 7"):
            pd.alloc_mr(kind, entries)


def test_a_closed_domain_takes_its_regions_along() -> None:
    peer = Peer()
    other = Peer(peer.device)
    kept = other.region([buffer(4)])
    mr = peer.region([buffer(4)])
    peer.pd.close()
    peer.pd.close()
    assert (mr.valid, kept.valid) == (False, True)
    assert (peer.pd.valid_keys, other.pd.valid_keys) == (0, 1)
    with pytest.raises(UsageError, match="closed"):
        peer.pd.alloc_mr(MrType.MEM_REG, 1)


def test_buffers_are_zeroed_and_writable() -> None:
    pd = new_device().alloc_pd()
    view = pd.alloc_buffer(10_000)
    assert len(view) == 10_000
    assert not any(view)
    view[9_999] = 1
    with pytest.raises(UsageError, match="0 bytes"):
        pd.alloc_buffer(0)


def test_queues_are_limited() -> None:
    device = new_device(SoftIwarpOptions(attributes=replace(DEFAULT_ATTRIBUTES, max_cqe=5, max_qp_wr=3)))
    pd = device.alloc_pd()
    cq = device.create_cq(5, lambda batch: None)
    device.create_qp(pd, cq, QpCap(3, 3))
    for depth in (0, 6):
        with pytest.raises(ResourceError, match="1 to 5"):
            device.create_cq(depth, lambda batch: None)
    for cap in (QpCap(0, 1), QpCap(1, 0), QpCap(4, 1), QpCap(1, 4)):
        with pytest.raises(ResourceError, match="1 to 3"):
            device.create_qp(pd, cq, cap)


def test_parts_of_another_provider_are_refused() -> None:
    device = new_device()
    with pytest.raises(UsageError, match="of this device"):
        device.create_qp(device.alloc_pd(), _OtherQueue(), QpCap(1, 1))
