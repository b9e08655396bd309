from __future__ import annotations

import asyncio
import os

import pytest

from initiator.bench import multi_mr
from initiator.bench.process import cpu_of, own_cpu, port_server, run_loop
from iser.errors import ConnectionFailed


async def test_a_server_ends_with_its_context() -> None:
    async with port_server(multi_mr.__name__) as (port, pid):
        assert port > 0
        assert cpu_of(pid)
    await asyncio.sleep(0)
    assert cpu_of(pid) in (0, None)


async def test_a_module_that_is_no_server() -> None:
    with pytest.raises(ConnectionFailed, match="ended before it listened"):
        async with port_server("initiator.bench"):
            pass


def test_processor_time_grows() -> None:
    before, mine = own_cpu(), cpu_of(os.getpid())
    sum(range(2_000_000))
    assert own_cpu() > before
    assert mine is not None
    assert (cpu_of(os.getpid()) or 0) >= mine
    assert cpu_of(None) is None


def test_a_loop_runs_the_work() -> None:
    done = []

    async def work() -> None:
        done.append(type(asyncio.get_running_loop()).__module__)

    run_loop(work())
    assert len(done) == 1
