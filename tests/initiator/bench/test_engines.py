"""Tests of initiator.bench.engines: each moves the same bytes, and tells what it used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from initiator import Url
from initiator.bench import multi_mr
from initiator.bench.cases import Case
from initiator.bench.engines import Engine, LunEngine, MultiMrEngine, raw_slice
from initiator.bench.multi_mr import MultiMrClient
from initiator.bench.process import port_server
from initiator.url import Portal
from iser.errors import UsageError
from iser.sg import SgList
from tests.sg.lists import Arena
from tests.target.peer import TARGET, config, serving

SPANS = [(1, 1000), (5000, 24)]
CASE = Case("indirect", "S4", 1024, write=False, depth=2, invalidate="remote")


@asynccontextmanager
async def lun_engine(case: Case) -> AsyncIterator[LunEngine]:
    async with serving() as (_, port):
        engine = await LunEngine.connect(Url(Portal("127.0.0.1", port), TARGET), case, 4, 99)
        yield engine
        await engine.close()


@asynccontextmanager
async def multi_engine() -> AsyncIterator[MultiMrEngine]:
    async with port_server(multi_mr.__name__) as (port, process):
        engine = MultiMrEngine(await MultiMrClient.connect(port, 10, remote_invalidate=True), process)
        yield engine
        await engine.close()


async def moves(engine: Engine) -> int:
    """What was written comes back; how many keys both took."""
    arena = Arena()
    arena.memory[:6000] = bytes(index * 7 & 0xFF for index in range(6000))
    out, back = SgList.of(arena.cut(SPANS), writable=False), SgList.of(Arena().cut(SPANS), writable=True)
    before, keys = engine.remote_operations, engine.counters.stags
    assert before is not None
    await engine.move(out, 512, write=True)
    await engine.move(back, 512, write=False)
    assert back.gather() == out.gather()
    assert engine.remote_operations is not None
    assert engine.remote_operations >= before + 2
    assert engine.in_use == 0
    assert max(engine.high_water.values()) >= 1
    return engine.counters.stags - keys


async def test_a_lun_takes_one_key_for_a_list_and_several_keys_one_for_each_stretch() -> None:
    async with lun_engine(CASE) as engine:
        assert engine.peer_pid == 99
        assert await moves(engine) == 2
    async with multi_engine() as other:
        assert await moves(other) == 4


async def test_what_cannot_be_measured_is_refused_with_the_fix() -> None:
    async with serving(config(portal={"p": {"listen": "iscsi://127.0.0.1:0"}})) as (_, port):
        with pytest.raises(UsageError, match="give an iser:// URL"):
            await LunEngine.connect(Url(Portal("127.0.0.1", port, "tcp"), TARGET), CASE, 4, None)


async def test_keys_are_invalidated_by_who_was_asked_to() -> None:
    async with lun_engine(replace(CASE, invalidate="local")) as engine:
        before = engine.counters.local_invalidations
        assert await moves(engine) == engine.counters.local_invalidations - before == 2
        assert engine.counters.remote_invalidations == 0


async def test_plain_sockets_move_whole_pieces() -> None:
    piece = await raw_slice(65536, 0.01, 1e8, write=True)
    assert piece.ios == 15
    assert piece.seconds > 0
