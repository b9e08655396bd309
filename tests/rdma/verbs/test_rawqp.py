"""The device's queue pair as it is asked for."""

from __future__ import annotations

import pytest

from iser.errors import IserError
from iser.rdma.api import (
    QpCap,
    Send,
)
from iser.rdma.verbs.constants import (
    SEND_INLINE,
)
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.rawqp import MAX_SGE
from tests.rdma.verbs.conftest import End
from tests.rdma.verbs.fakes import FakeQP


async def test_a_device_that_takes_less_inline_than_was_asked_is_asked_for_less(
    device: VerbsDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeQP, "max_inline", 10)
    end = End(device, QpCap(64, 8))
    assert end.raw.init.cap.max_inline_data == 0
    end.connect()
    end.qp.post_send(Send(None, (memoryview(b"abc"),)))
    assert not end.raw.sends[0].flags & SEND_INLINE
    await end.close()


async def test_a_queue_pair_that_the_device_cannot_make_is_refused_by_name(
    device: VerbsDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeQP, "max_inline", -1)
    pd, cq = device.alloc_pd(), device.create_cq(100, print)
    with pytest.raises(IserError, match="making a queue pair on fake0"):
        device.create_qp(pd, cq, QpCap(64, 8))
    cq.close()
    pd.close()


async def test_the_device_holds_no_more_requests_than_the_completion_queue(device: VerbsDevice) -> None:
    end = End(device, QpCap(1000, 200))
    assert end.raw.init.cap.max_send_wr == 256 - 200
    assert end.raw.init.cap.max_send_sge <= MAX_SGE
    await end.close()
