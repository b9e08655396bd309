"""The numbers, against the values that the kernel's and rdma-core's headers give."""

from __future__ import annotations

from iser.rdma.verbs.constants import AsyncEvent, CmEventType, QpAttrMask


def test_events_have_the_numbers_of_the_headers() -> None:
    assert (CmEventType.CONNECT_REQUEST, CmEventType.DISCONNECTED, CmEventType.TIMEWAIT_EXIT) == (4, 10, 15)
    assert (AsyncEvent.COMM_EST, AsyncEvent.DEVICE_FATAL, AsyncEvent.PORT_ERR) == (4, 8, 10)


def test_the_masks_have_the_bits_of_the_headers() -> None:
    assert (QpAttrMask.AV, QpAttrMask.MIN_RNR_TIMER, QpAttrMask.MAX_DEST_RD_ATOMIC) == (0x80, 0x8000, 0x20000)
