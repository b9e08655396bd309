"""The layout of librdmacm's structures, its events and socket addresses."""

from __future__ import annotations

import ctypes
import socket

import pytest

from iser.rdma.verbs.constants import CmEventType
from iser.rdma.verbs.rdmacm import (
    ConnParam,
    QpAttr,
    RdmaCmEvent,
    RdmaCmId,
    pack_address,
    parse_event,
    unpack_address,
)


def test_structures_have_the_sizes_of_the_library() -> None:
    assert ctypes.sizeof(RdmaCmId) == 416
    assert ctypes.sizeof(QpAttr) == 144
    assert RdmaCmEvent.conn.offset == 24
    assert ConnParam.qp_num.offset == 16
    assert (QpAttr.ah_attr.offset, QpAttr.max_rd_atomic.offset, QpAttr.rate_limit.offset) == (56, 126, 136)


def event(kind: CmEventType, data: bytes = b"", status: int = 0) -> RdmaCmEvent:
    keep = ctypes.create_string_buffer(data, max(1, len(data)))
    raw = RdmaCmEvent(id=7, listen_id=9, event=kind, status=status)
    raw.conn.private_data = ctypes.addressof(keep)
    raw.conn.private_data_len = len(data)
    raw.conn.responder_resources, raw.conn.initiator_depth = 3, 5
    raw.keep = keep
    return raw


def test_an_event_is_copied_with_its_private_data() -> None:
    raw = event(CmEventType.CONNECT_REQUEST, b"\xc0\0\0\0")
    parsed = parse_event(raw)
    ctypes.memset(raw.conn.private_data, 0xFF, 4)
    assert parsed == (CmEventType.CONNECT_REQUEST, 0, 7, 9, b"\xc0\0\0\0", 3, 5)


def test_an_event_without_parameters_has_none_whatever_its_memory_holds() -> None:
    parsed = parse_event(event(CmEventType.ADDR_ERROR, b"rubbish", -19))
    assert parsed == (CmEventType.ADDR_ERROR, -19, 7, 9, b"", 0, 0)


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, ("192.168.77.1", 3260)),
        (socket.AF_INET6, ("fe80::1", 13, 0, 2)),
    ],
)
def test_addresses_survive_the_round_trip(family: int, address: tuple[str, int]) -> None:
    assert unpack_address(pack_address(family, address).ljust(128, b"\0")) == address[:2]


def test_an_empty_address_has_no_host() -> None:
    assert unpack_address(bytes(128)) == ("", 0)
