"""Tests of iser.rdma.arrivals, with requests that nobody sent."""

from __future__ import annotations

import asyncio
import logging

import pytest

from iser.errors import ConnectionFailed
from iser.rdma.api import ConnectionInfo, ConnectionParams, ConnectRequest, QueuePair
from iser.rdma.arrivals import Arrivals, PendingRequest

LOG = logging.getLogger("iser.rdma.test")


class Request(PendingRequest):
    """One that only remembers how it was answered."""

    def __init__(self) -> None:
        self.info = ConnectionInfo(b"", 1, 1, ("192.0.2.1", 3260), ("192.0.2.2", 4000))
        self.answered = asyncio.Event()
        self.answers: list[str] = []

    async def accept(self, qp: QueuePair, params: ConnectionParams) -> ConnectionInfo:
        raise AssertionError("these tests have no queue pair")

    async def reject(self, private_data: bytes = b"") -> None:
        self.answers.append("reject")
        self.answered.set()


class Listening:
    """A listener whose user does ``handler``."""

    def __init__(self) -> None:
        self.places = 1
        self.ends = asyncio.Event()
        self.problem: Exception | None = None
        self.arrivals = Arrivals(self.handle, self.release, LOG)

    def release(self) -> None:
        self.places += 1

    async def handle(self, request: ConnectRequest) -> None:
        await self.ends.wait()
        if self.problem:
            raise self.problem

    def hand_over(self) -> Request:
        request = Request()
        self.places -= 1
        self.arrivals.hand_over(request)
        return request


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_place_is_free_when_the_answer_is_given_not_when_the_handler_ends() -> None:
    listening = Listening()
    request = listening.hand_over()
    await turns()
    assert listening.places == 0
    request.answered.set()
    await turns()
    assert listening.places == 1
    listening.ends.set()
    await turns()
    assert (listening.places, request.answers) == (1, [])


@pytest.mark.parametrize("problem", [None, ConnectionFailed("it went away"), KeyError("a fault of ours")])
async def test_what_a_handler_leaves_without_an_answer_is_refused(
    problem: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    listening = Listening()
    listening.problem = problem
    listening.ends.set()
    with caplog.at_level(logging.INFO):
        request = listening.hand_over()
        await turns()
    assert (listening.places, request.answers) == (1, ["reject"])
    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == LOG.name]
    expected = {
        type(None): [],
        ConnectionFailed: [("INFO", "connection from 192.0.2.2:4000: it went away")],
        KeyError: [("ERROR", "the handler of the connection from 192.0.2.2:4000 failed")],
    }
    assert told == expected[type(problem)]
