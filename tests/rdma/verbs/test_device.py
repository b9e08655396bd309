"""Tests of iser.rdma.verbs.device: the depths of what is made of a device."""

from __future__ import annotations

import pytest

from iser.errors import ResourceError, UsageError
from iser.rdma.api import QpCap
from iser.rdma.softiwarp import SoftIwarp
from iser.rdma.verbs.cq import VerbsCompletionQueue
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.options import MIN_SEND_DEPTH
from tests.rdma.verbs.conftest import turns

DEVICE_CQE = 4096  # what the device has at the most


@pytest.mark.parametrize(
    ("asked", "depth"),
    [(1, 2 * MIN_SEND_DEPTH), (2 * MIN_SEND_DEPTH + 1, 2 * MIN_SEND_DEPTH + 1), (1 << 20, DEVICE_CQE)],
)
async def test_a_completion_queue_is_neither_too_short_nor_longer_than_needed(
    device: VerbsDevice, asked: int, depth: int
) -> None:
    queue = device.create_cq(asked, lambda batch: None)
    assert isinstance(queue, VerbsCompletionQueue)
    assert queue.depth == depth
    queue.close()


async def test_an_empty_queue_is_refused(device: VerbsDevice) -> None:
    with pytest.raises(ResourceError, match="a completion queue of 0: give at least 1"):
        device.create_cq(0, lambda batch: None)


@pytest.mark.parametrize("cap", [QpCap(1, 0), QpCap(0, 1), QpCap(1, MIN_SEND_DEPTH + 1)])
async def test_a_queue_pair_needs_room_for_its_receives_in_the_completion_queue(
    device: VerbsDevice, cap: QpCap
) -> None:
    pd, cq = device.alloc_pd(), device.create_cq(1, lambda batch: None)
    with pytest.raises(ResourceError, match=f"has 1 to {MIN_SEND_DEPTH} receives here; lower the queue depth"):
        device.create_qp(pd, cq, cap)
    cq.close()
    pd.close()
    await turns()


async def test_parts_of_another_provider_do_not_fit(device: VerbsDevice) -> None:
    other = SoftIwarp().device
    pd, cq = other.alloc_pd(), other.create_cq(8, lambda batch: None)
    with pytest.raises(UsageError, match="must be of this device"):
        device.create_qp(pd, cq, QpCap(1, 1))
