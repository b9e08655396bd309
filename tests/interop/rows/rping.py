"""The embedded RNIC alone, on this machine, with rdma-core's ``rping`` over siw, in the guest."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.recorder import feature
from tests.interop.rping import client, serve_one
from tests.lab import HOST, Machine

_PINGS = 20
_PORT = 7174
_BOTH = (Feature.RDMA_READ, Feature.RDMA_WRITE)


@pytest.mark.parametrize("which", [pytest.param(which, marks=feature(which)) for which in _BOTH])
class _Rping:
    """One ping uses both operations, so a row has one result for both."""

    sizes = (64, 4096, 60000)


class TestRpingServer(_Rping):
    """Our RNIC as the active side: rping reads from and writes to our memory."""

    row: ClassVar = Row("RNIC as client, softiwarp", "rdma-core rping -s", Fabric.IWARP)

    async def test_ping(self, lab: Machine, which: Feature) -> None:
        for crc in (False, True):
            for size in self.sizes:
                server = lab.start(f"rping -s -a 10.0.2.15 -p {_PORT} -C {_PINGS} -S {size} -V")
                try:
                    await lab.arun(f"for i in $(seq 100); do ss -ltn | grep -q :{_PORT} && break; sleep 0.1; done")
                    await client(SoftIwarp(SoftIwarpOptions(crc=crc)), "127.0.0.1", lab.forward(_PORT), _PINGS, size)
                finally:
                    server.kill()
                    await asyncio.to_thread(server.wait)


class TestRpingClient(_Rping):
    """Our RNIC as the passive side: we read from and write to rping's memory."""

    row: ClassVar = Row("RNIC as server, softiwarp", "rdma-core rping -c", Fabric.IWARP)

    async def test_ping(self, lab: Machine, which: Feature) -> None:
        for size in self.sizes:
            port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            serving = asyncio.create_task(serve_one(SoftIwarp(), "127.0.0.1", port))
            try:
                await lab.arun(f"rping -c -a {HOST} -p {await port} -C {_PINGS} -S {size} -V")
                assert await asyncio.wait_for(serving, 10) == _PINGS
            finally:
                serving.cancel()
