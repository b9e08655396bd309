"""Requests as the device gets them."""

from __future__ import annotations

import pytest

from iser.rdma.api import QpCap, RdmaRead, RdmaWrite, Send, WcStatus
from iser.rdma.verbs import opened as opened_module
from iser.rdma.verbs.constants import OP_SEND_WITH_INV, SEND_INLINE
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.options import VerbsOptions
from iser.rdma.verbs.request import status_of
from tests.rdma.verbs.conftest import End, mapping
from tests.rdma.verbs.fakes import FakeContext, FakePyverbs, FakeQPEx, Posted


async def test_requests_are_the_same_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is posted: what the device gets does not depend on how its provider takes it."""
    got = []
    monkeypatch.setattr(opened_module, "load_pyverbs", FakePyverbs)
    for offered in (False, True):
        monkeypatch.setattr(FakeQPEx, "offered", offered)
        monkeypatch.setattr(FakeContext, "pinned", 0)
        end = End(VerbsDevice("fake0", VerbsOptions(linger_timeout=0.02)), QpCap(64, 8))
        assert isinstance(end.raw, FakeQPEx) == offered
        end.connect()
        memory = mapping(8192)
        end.qp.post_send(
            Send(None, (memoryview(b"inline"),), signaled=False),
            Send(None, (), signaled=False),
            Send(None, (memory[:2000],), invalidate=77),
            RdmaWrite(None, (memory[:4096],), remote_addr=0x1000, rkey=5),
            RdmaWrite(None, (memory[:64], memory[4096:4160]), remote_addr=0x2000, rkey=6, signaled=False),
            RdmaRead(None, (memory[100:300],), remote_addr=0x3000, rkey=7),
        )
        got.append([(p.wr_id, p.opcode, p.flags, _lengths(p), p.rkey, p.remote) for p in end.raw.sends])
        await end.close()
    assert got[0] == got[1]


def _lengths(posted: Posted) -> list[int]:
    return [length for _, length, _ in posted.elements]


async def test_what_goes_inline_is_taken_when_it_is_posted(device: VerbsDevice) -> None:
    end = End(device, QpCap(64, 8))
    end.connect()
    data = bytearray(b"abc")
    end.qp.post_send(Send(None, (memoryview(data),)))
    data[:] = b"xyz"
    (sent,) = end.raw.sends
    assert sent.flags & SEND_INLINE
    if isinstance(end.raw, FakeQPEx):
        assert sent.data == b"abc"
    await end.close()


async def test_a_request_that_cannot_be_built_leaves_the_provider_unlocked(
    device: VerbsDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = End(device, QpCap(64, 8))
    end.connect()
    if isinstance(end.raw, FakeQPEx):
        with monkeypatch.context() as patch:
            patch.setattr(end.raw, "wr_set_inline_data", None)
            with pytest.raises(TypeError):
                end.qp.post_send(Send(None, (memoryview(b"x"),)))
    end.qp.post_send(Send(None, (memoryview(b"x"),)))
    assert len(end.raw.sends) == 1
    await end.close()


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
