"""The queue pair as a whole: what it refuses, and what comes back from it."""

from __future__ import annotations

import pytest

from iser.errors import IserError, ResourceError
from iser.rdma.api import (
    QpCap,
    Send,
    WcStatus,
)
from iser.rdma.verbs.device import VerbsDevice
from tests.rdma.verbs.conftest import End, turns


async def test_what_is_posted_after_the_end_comes_back(end: End) -> None:
    end.connect()
    end.qp.abort(IserError("enough"))
    await turns()
    end.qp.post_send(Send("late", (memoryview(b"x"),)))
    end.qp.post_recv("later", end.pd.alloc_buffer(10))
    await turns()
    assert [(each.wr_id, each.status) for each in end.log] == [
        ("late", WcStatus.WR_FLUSH_ERR),
        ("later", WcStatus.WR_FLUSH_ERR),
    ]


async def test_queues_that_the_device_cannot_have_are_refused_with_the_limit(device: VerbsDevice) -> None:
    pd, cq = device.alloc_pd(), device.create_cq(100, print)
    with pytest.raises(ResourceError, match="has 1 to 68 receives here"):
        device.create_qp(pd, cq, QpCap(10, 69))
    cq.close()
    pd.close()
