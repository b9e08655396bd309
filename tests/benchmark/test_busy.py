"""Tests of tests.benchmark.busy and its client, with targets that run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from target.server import TargetServer
from tests.benchmark.busy import measure_workers
from tests.benchmark.flood import Flood
from tests.benchmark.host import BenchmarkError
from tests.benchmark.peers import Settings
from tests.target.peer import TARGET, config, disk, serving

PORTAL = {"p": {"listen": "iscsi://127.0.0.1:0"}}


async def test_two_workers_and_one_process_take_turns(tmp_path: Path) -> None:
    heard: list[str] = []
    row = await measure_workers(tmp_path, Settings(pairs=1, seconds=1, sessions=0), heard.append)
    assert (len(row.ours), len(row.peer), len(heard)) == (1, 1, 1)
    assert row.value > 0


def reads(server: TargetServer) -> int:
    return sum(counters.commands for counters in server.lun_counters().values())


async def test_what_the_client_counts_is_what_the_target_served() -> None:
    async with serving(config(portal=PORTAL)) as (server, port):
        flood = await asyncio.to_thread(Flood, ("127.0.0.1", port), TARGET, 1 << 20)
        before = reads(server)
        found = await asyncio.to_thread(flood.run, 0.2)
        await asyncio.sleep(0.2)
        counted = sum(counters.read_bytes for counters in server.lun_counters().values()) // 4096
        assert counted >= found.iops * 0.2 > 0
        assert before > 0
        assert 0 < found.cpu < 1


async def test_a_target_that_does_not_answer_with_data_is_no_measurement() -> None:
    broken = disk({"on": "read", "action": "error", "count": 1000})
    async with serving(config(portal=PORTAL, target=broken)) as (_, port):
        with pytest.raises(BenchmarkError, match="the target answered a read with"):
            await asyncio.to_thread(Flood, ("127.0.0.1", port), TARGET, 1 << 20)
        with pytest.raises(BenchmarkError, match="no such target"):
            await asyncio.to_thread(Flood, ("127.0.0.1", port), "iqn.2026-11.test:none", 1 << 20)
