from __future__ import annotations

import asyncio
import random

import pytest

from initiator.bench import multi_mr
from initiator.bench.multi_mr import MEMORY, MultiMrClient
from initiator.bench.process import port_server
from iser.errors import ConnectionLost, ResourceError
from iser.sg import SgList
from tests.sg.lists import Arena

SPANS = [(1, 1000), (5000, 24), (9000, 4096), (20480, 4096), (28672, 100)]


@pytest.mark.parametrize("remote", [True, False])
async def test_each_stretch_has_a_key_and_every_byte_its_place(remote: bool) -> None:
    async with port_server(multi_mr.__name__) as (port, _):
        client = await MultiMrClient.connect(port, 100, remote_invalidate=remote)
        source, sink = Arena(), Arena()
        source.memory[:] = random.Random(1).randbytes(len(source.memory))
        out, back = SgList.of(source.cut(SPANS), writable=False), SgList.of(sink.cut(SPANS), writable=True)
        await client.move(out, 512, write=True)
        await client.move(back, 512, write=False)
        assert back.gather() == out.gather()
        counters = client.counters
        assert (counters.stags, counters.registrations, counters.commands) == (8, 8, 2)
        assert counters.local_invalidations + counters.remote_invalidations == 8
        assert counters.remote_invalidations == 2 * remote
        assert client.resources.page_lists.in_use == 0
        assert client.pd.valid_keys == 0
        assert client.qp.remote_operations == 8
        await client.close()


async def test_transfers_wait_for_keys_and_a_list_that_never_fits_is_refused() -> None:
    async with port_server(multi_mr.__name__) as (port, _):
        client = await MultiMrClient.connect(port, 5, remote_invalidate=True)
        lists = [SgList.of(Arena().cut(SPANS), writable=True) for _ in range(6)]
        await asyncio.gather(*(client.move(sg, 0, write=False) for sg in lists))
        assert client.counters.pool_waits > 0
        with pytest.raises(ResourceError):
            await client.move(SgList.of(Arena().cut([(n * 100, 50) for n in range(6)]), writable=True), 0, write=False)
        assert client.resources.page_lists.in_use == 0
        await client.close()


async def test_a_request_beyond_the_array_ends_the_connection() -> None:
    async with port_server(multi_mr.__name__) as (port, _):
        client = await MultiMrClient.connect(port, 5, remote_invalidate=True)
        with pytest.raises(ConnectionLost):
            await client.move(SgList.of(bytearray(512), writable=True), MEMORY, write=False)
        await client.close()
