"""What moves a list: a LUN over iSER, the protocol with several keys, or plain sockets for comparison."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import initiator
from initiator.bench import loopback
from initiator.bench.cases import Case
from initiator.bench.multi_mr import MultiMrClient
from initiator.bench.process import own_cpu
from initiator.bench.result import Slice
from initiator.lun import Lun
from initiator.url import Url
from iser.errors import UsageError
from iser.sg import RegistrationCounters, SgList

__all__ = ["Engine", "LunEngine", "MultiMrEngine", "raw_slice"]

TIMEOUT: Final = 120.0  # seconds for a command: a benchmark queues deep


class Engine(ABC):
    """Moves lists to and from ``offset`` bytes into a store."""

    #: The process at the other end, if it is ours.
    peer_pid: int | None = None

    @abstractmethod
    async def move(self, sg: SgList, offset: int, *, write: bool) -> None:
        """One transfer."""

    @property
    @abstractmethod
    def counters(self) -> RegistrationCounters:
        """What registration did so far."""

    @property
    @abstractmethod
    def remote_operations(self) -> int | None:
        """RDMA operations of the other end on our memory so far."""

    @property
    @abstractmethod
    def high_water(self) -> dict[str, int]:
        """The most that was in use at once, by kind."""

    @property
    @abstractmethod
    def in_use(self) -> int:
        """What registrations hold now: 0 when nothing is on its way."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class LunEngine(Engine):
    """A LUN under one strategy."""

    def __init__(self, lun: Lun, peer_pid: int | None) -> None:
        self.lun = lun
        self.peer_pid = peer_pid
        self._block = lun.capacity.block_size

    @classmethod
    async def connect(cls, url: Url, case: Case, depth: int, peer_pid: int | None) -> LunEngine:
        """Log in with the options that ``case`` needs."""
        options = {
            "strategy": case.strategy,
            "remote_invalidate": case.invalidate == "remote",
            "immediate_data": case.strategy == "immediate",
            "queue_depth": depth,
            "timeout": TIMEOUT,
        }
        lun = await initiator.connect(url, **options)
        if lun.link.planner is None:
            await lun.close()
            raise UsageError("plain iSCSI registers no memory, so all strategies are one; give an iser:// URL")
        if case.invalidate == "remote" and not lun.link.datamover.remote_invalidate:
            await lun.close()
            raise UsageError("the target does not invalidate keys remotely; run with --invalidate local")
        return cls(lun, peer_pid)

    async def move(self, sg: SgList, offset: int, *, write: bool) -> None:
        if write:
            await self.lun.write(offset // self._block, sg)
        else:
            await self.lun.read_into(offset // self._block, sg)

    @property
    def counters(self) -> RegistrationCounters:
        return self.lun.counters

    @property
    def remote_operations(self) -> int | None:
        return self.lun.link.datamover.remote_operations

    @property
    def high_water(self) -> dict[str, int]:
        planner = self.lun.link.planner
        return planner.high_water if planner else {}

    @property
    def in_use(self) -> int:
        planner = self.lun.link.planner
        return planner.in_use if planner else 0

    async def close(self) -> None:
        await self.lun.close()


class MultiMrEngine(Engine):
    """The benchmark's own protocol."""

    def __init__(self, client: MultiMrClient, peer_pid: int) -> None:
        self.client = client
        self.peer_pid = peer_pid

    async def move(self, sg: SgList, offset: int, *, write: bool) -> None:
        await self.client.move(sg, offset, write=write)

    @property
    def counters(self) -> RegistrationCounters:
        return self.client.counters

    @property
    def remote_operations(self) -> int | None:
        return self.client.qp.remote_operations

    @property
    def high_water(self) -> dict[str, int]:
        return {"page_lists": self.client.resources.page_lists.high_water}

    @property
    def in_use(self) -> int:
        return self.client.resources.page_lists.in_use

    async def close(self) -> None:
        await self.client.close()


async def raw_slice(size: int, seconds: float, rate: float, *, write: bool) -> Slice:
    """Move bytes over plain sockets for about ``seconds``, given the ``rate`` expected, in pieces of ``size``."""
    pieces = max(1, round(rate * seconds / size))
    before = own_cpu()
    got = await loopback.raw_throughput(b"W" if write else b"R", pieces * size)
    return Slice(pieces * size / got, pieces, own_cpu() - before, None)
