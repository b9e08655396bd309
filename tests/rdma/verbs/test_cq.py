"""The completion queue: batches, fairness, and silence after its end."""

from __future__ import annotations

import pytest

from iser.net import busy_poll, busypoll
from iser.rdma.api import QpCap, Send, WorkCompletion
from iser.rdma.verbs.cq import POLL_BATCH
from iser.rdma.verbs.device import VerbsDevice
from tests.rdma.verbs.conftest import End, turns


async def test_what_is_there_comes_in_few_batches(device: VerbsDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    end = End(device, QpCap(128, 4))
    end.connect()
    batches: list[int] = []
    monkeypatch.setattr(end.cq, "_handler", lambda batch: batches.append(len(batch)))
    for number in range(100):
        end.qp.post_send(Send(number, (memoryview(b"x"),)))
    await end.complete(*[sent.wr_id for sent in end.raw.sends])
    assert batches == [POLL_BATCH] * 3 + [4]
    await end.close()


async def test_a_busy_queue_lets_others_have_their_turn(device: VerbsDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iser.rdma.verbs.cq.POLL_ROUNDS", 1)
    end = End(device, QpCap(128, 4))
    end.connect()
    for number in range(100):
        end.qp.post_send(Send(number, (memoryview(b"x"),)))
    for sent in end.raw.sends:
        end.raw.complete(sent.wr_id)
    end.cq.poll()
    assert len(end.log) == POLL_BATCH
    await turns()
    assert len(end.log) == 100
    await end.close()


async def test_a_closed_queue_hands_nothing_on_and_goes_with_its_last_queue_pair(end: End) -> None:
    end.connect()
    end.qp.post_send(Send("s", (memoryview(b"x"),)))
    raw = end.cq.raw
    end.cq.close()
    await end.complete(end.raw.sends[0].wr_id)
    assert end.log == []
    assert not raw.closed
    await end.close()
    assert raw.closed


async def test_completions_of_a_stranger_are_passed_over(end: End) -> None:
    end.connect()
    end.raw.qp_num += 1000
    await end.complete(2)
    end.raw.qp_num -= 1000
    assert end.log == list[WorkCompletion]()


async def test_completions_that_come_soon_are_waited_for_awake(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busypoll, "CONTENDED", 60.0)  # on a machine that others use, too
    end.connect()
    poll = busy_poll()
    poll.window = 60.0
    for _ in range(2):
        end.qp.post_send(Send("s", (memoryview(b"x"),)))
        await end.complete(end.raw.sends[-1].wr_id)
    assert poll.polling
    poll.window = 0.0
