"""The completion queue."""

from __future__ import annotations

from iser.rdma.api import WcOpcode, WcStatus, WorkCompletion
from iser.rdma.softiwarp.cq import SoftCompletionQueue


def test_batches_reach_the_handler_until_the_queue_is_closed() -> None:
    seen: list[WorkCompletion] = []
    cq = SoftCompletionQueue(8, seen.extend)
    wc = WorkCompletion(1, WcStatus.SUCCESS, WcOpcode.SEND, 0)
    cq.deliver([wc, wc])
    cq.close()
    cq.close()
    cq.deliver([wc])
    assert seen == [wc, wc]
