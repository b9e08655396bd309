"""How a connection begins and ends, on a device that does only what the test tells it."""

from __future__ import annotations

import pytest

from iser.errors import ConnectionLost, IserError
from iser.rdma.api import (
    QpCap,
    RdmaRead,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
)
from iser.rdma.verbs.constants import (
    CmEventType,
)
from iser.rdma.verbs.device import VerbsDevice
from tests.rdma.verbs.conftest import End, cm_event, mapping, turns


async def test_the_peers_orderly_end_flushes_everything_and_is_told_once(end: End) -> None:
    arena = end.pd.alloc_buffer(100)
    end.qp.post_recv(1, arena)
    end.connect()
    end.cm.deliver(cm_event(CmEventType.DISCONNECTED))
    end.cm.deliver(cm_event(CmEventType.DISCONNECTED))
    end.raw.complete(end.raw.receives[0].wr_id, 5)
    await turns()
    assert end.log == [WorkCompletion(1, WcStatus.WR_FLUSH_ERR, WcOpcode.RECV, 0)]
    assert end.ends == [None]
    assert end.channel.library.calls == ["disconnect", "destroy"]


async def test_an_end_in_the_middle_of_a_read_is_a_loss(end: End) -> None:
    end.connect()
    end.qp.post_send(RdmaRead("read", [mapping(10)], 0, 7))
    end.cm.deliver(cm_event(CmEventType.DISCONNECTED))
    end.raw.complete(end.raw.sends[0].wr_id, 5)
    await turns()
    assert [(each.wr_id, each.status) for each in end.log] == [("read", WcStatus.WR_FLUSH_ERR)]
    assert isinstance(end.ends[0], ConnectionLost)
    assert "middle of a transfer" in str(end.ends[0])


async def test_a_flush_of_what_was_sent_just_before_the_peers_end_is_a_loss_too(end: End) -> None:
    end.connect()
    end.qp.post_send(RdmaRead("read", [mapping(10)], 0, 7))
    await end.complete(end.raw.sends[0].wr_id, status=5)
    end.cm.deliver(cm_event(CmEventType.DISCONNECTED))
    await turns()
    assert "middle of a transfer" in str(end.ends[0])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (10, "refused access"),
        (12, "no longer answers"),
        (13, "no receive"),
        (1, "longer than the receive"),
        (3, "error"),
    ],
)
async def test_a_failed_request_ends_the_connection_in_one_sentence(end: End, status: int, words: str) -> None:
    end.connect()
    end.qp.post_send(Send("s", (memoryview(b"x"),)), Send("t", (memoryview(b"y"),)))
    await end.complete(end.raw.sends[0].wr_id, status=status)
    await end.complete(end.raw.sends[1].wr_id, status=5)
    assert [each.wr_id for each in end.log] == ["s", "t"]
    assert end.log[1].status is WcStatus.WR_FLUSH_ERR
    assert len(end.ends) == 1
    assert words in str(end.ends[0])


async def test_what_the_device_never_flushes_is_flushed_for_it(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iser.rdma.verbs.lifetime.FLUSH_TIMEOUT", 0.01)
    arena = end.pd.alloc_buffer(100)
    end.connect(read_depth=1)
    end.qp.post_recv(1, arena)
    view = mapping(100)
    for number in (2, 3):
        end.qp.post_send(RdmaRead(number, [view[:10]], 0, 7))
    end.qp.abort(IserError("enough"))
    assert not end.ends, "never from inside a call"
    end.qp.post_send(Send(4, (memoryview(b"x"),)))
    await end.qp.close(1)
    assert {each.wr_id for each in end.log} == {1, 2, 3, 4}
    assert {each.status for each in end.log} == {WcStatus.WR_FLUSH_ERR}
    assert [str(reason) for reason in end.ends] == ["enough"]


async def test_a_flush_that_nobody_explains_is_a_loss_after_a_moment(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iser.rdma.verbs.lifetime.GRACE", 0.01)
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.connect()
    await end.complete(end.raw.receives[0].wr_id, status=5)
    await turns(20)
    assert "the device ended the connection" in str(end.ends[0])


async def test_a_post_that_the_device_refuses_ends_the_connection(end: End) -> None:
    end.connect()
    end.raw.refuse = True
    end.qp.post_send(Send("s", (memoryview(b"x"),)))
    assert not end.ends
    await turns(10)
    await end.qp.close(1)
    assert [each.status for each in end.log] == [WcStatus.WR_FLUSH_ERR]
    assert len(end.ends) == 1


async def test_the_removal_of_the_device_ends_the_connection(end: End) -> None:
    end.connect()
    end.cm.deliver(cm_event(CmEventType.DEVICE_REMOVAL))
    await turns()
    assert "fake0 was removed" in str(end.ends[0])
    assert end.device.context.name, "what was made of it is still open"
    end.cq.close()
    end.pd.close()
    assert not end.device.context.name, "the system waits for us to close it"


async def test_a_responder_on_iwarp_sends_once_the_peer_has_spoken(
    device: VerbsDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "is_iwarp", True)
    end = End(device, QpCap(64, 8))
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.qp.prepare(end.cm, "peer:1")
    end.qp.attach(1, established=False)
    end.qp.post_send(Send(None, (memoryview(b"x"),)))
    assert not end.raw.sends
    await end.complete(end.raw.receives[0].wr_id, byte_len=5)
    assert len(end.raw.sends) == 1
    await end.qp.wait_established()
    await end.close()


async def test_a_responder_on_roce_tells_of_a_message_that_overtook_the_handshake(end: End) -> None:
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.qp.prepare(end.cm, "peer:1")
    end.qp.attach(1, established=False)
    await end.complete(end.raw.receives[0].wr_id, byte_len=5)
    assert end.channel.library.calls == ["notify"]


async def test_a_queue_pair_that_was_never_connected_goes_quietly(device: VerbsDevice) -> None:
    end = End(device, QpCap(64, 8))
    end.qp.post_recv(1, end.pd.alloc_buffer(100))
    end.qp.discard()
    assert end.raw.closed
    end.cq.close()
    end.pd.close()
    await turns()
    assert not end.ends
    assert not end.log
