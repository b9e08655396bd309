"""Requests as the device gets them."""

from __future__ import annotations

import pytest

from iser.rdma.api import (
    Send,
    WcStatus,
)
from iser.rdma.verbs.constants import (
    OP_SEND_WITH_INV,
    SEND_INLINE,
)
from iser.rdma.verbs.request import status_of
from tests.rdma.verbs.conftest import End


async def test_the_key_to_invalidate_stands_where_every_driver_looks_for_it(end: End) -> None:
    end.connect()
    end.qp.post_send(Send(None, (memoryview(b"x"),), invalidate=0x1234, signaled=False))
    (sent,) = end.raw.sends
    assert (sent.opcode, sent.invalidate, sent.rkey) == (OP_SEND_WITH_INV, 0x1234, 0x1234)
    assert not sent.flags & SEND_INLINE, "siw ends the connection on such a request with inline data"


@pytest.mark.parametrize(
    ("number", "status"), [(0, WcStatus.SUCCESS), (5, WcStatus.WR_FLUSH_ERR), (99, WcStatus.GENERAL_ERR)]
)
def test_a_status_that_nobody_knows_is_an_error(number: int, status: WcStatus) -> None:
    assert status_of(number) is status
