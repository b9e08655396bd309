"""A queue pair on a device that is not there."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest

from iser.errors import IserError
from iser.rdma.api import QpCap, WorkCompletion
from iser.rdma.verbs import opened as opened_module
from iser.rdma.verbs.constants import CmEventType
from iser.rdma.verbs.cq import VerbsCompletionQueue
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.events import CmId, EventChannel
from iser.rdma.verbs.memory import VerbsProtectionDomain
from iser.rdma.verbs.options import VerbsOptions
from iser.rdma.verbs.qp import VerbsQueuePair
from iser.rdma.verbs.rdmacm import CmEvent
from tests.rdma.verbs.fakes import FakeContext, FakeEventChannel, FakePyverbs, FakeQP, FakeQPEx
from tests.rdma.verbs.mlx5 import FakeMlx5


class End:
    """A queue pair, the fake one under it, and what its user hears."""

    def __init__(self, device: VerbsDevice, cap: QpCap) -> None:
        self.log: list[WorkCompletion] = []
        self.ends: list[IserError | None] = []
        self.device = device
        self.pd = cast("VerbsProtectionDomain", device.alloc_pd())
        self.cq = cast("VerbsCompletionQueue", device.create_cq(256, self.log.extend))
        self.qp = cast("VerbsQueuePair", device.create_qp(self.pd, self.cq, cap))
        self.qp.on_disconnect = self.ends.append
        self.channel = FakeEventChannel()
        self.cm = CmId(cast("EventChannel", self.channel), 1)

    @property
    def raw(self) -> FakeQP:
        return cast("FakeQP", self.qp._raw)

    def connect(self, read_depth: int = 16) -> None:
        self.qp.prepare(self.cm, "peer:1")
        self.qp.attach(read_depth, established=True)

    async def complete(self, *wr_ids: int, status: int = 0, **more: int) -> None:
        for wr_id in wr_ids:
            self.raw.complete(wr_id, status, **more)
        self.raw.wake()
        await turns()

    async def close(self) -> None:
        for sent in self.raw.sends:
            self.raw.complete(sent.wr_id, 5)
        self.qp.abort(IserError("the test is over"))
        await self.qp.close(0.1)
        self.cq.close()
        self.pd.close()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0.001)


def mapping(length: int) -> memoryview:
    return memoryview(mmap.mmap(-1, length))[:length]


def cm_event(kind: CmEventType) -> CmEvent:
    return CmEvent(kind, 0, 1, 0, b"", 0, 0)


@pytest.fixture(params=[False, True], ids=["objects", "in place"])
def device(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[VerbsDevice]:
    monkeypatch.setattr(FakeQPEx, "offered", request.param)
    monkeypatch.setattr(opened_module, "load_pyverbs", FakePyverbs)
    monkeypatch.setattr(FakeContext, "pinned", 0)
    yield VerbsDevice("fake0", VerbsOptions(linger_timeout=0.02))
    assert FakeContext.pinned == 0, "memory stays registered"


@pytest.fixture
def mlx5_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[VerbsDevice]:
    monkeypatch.setattr(opened_module, "load_pyverbs", FakePyverbs)
    monkeypatch.setattr(opened_module, "open_mlx5", lambda name: FakeMlx5())
    monkeypatch.setattr(FakeContext, "pinned", 0)
    yield VerbsDevice("mlx5_0", VerbsOptions(linger_timeout=0.02))
    assert FakeContext.pinned == 0, "memory stays registered"


@pytest.fixture
async def end(device: VerbsDevice) -> AsyncIterator[End]:
    made = End(device, QpCap(128, 8))
    yield made
    await made.close()
