from __future__ import annotations

import pytest

from initiator.bench import loopback as bench
from iser.net.sockets import LOCAL_CONGESTION


async def test_the_benchmark_prints_each_rate(capsys: pytest.CaptureFixture[str]) -> None:
    await bench.run(0.1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(bench.SMALL_DEPTHS)
    assert all("raw TCP" in line and "ratio" in line for line in lines[:2])
    assert all("IOPS" in line for line in lines[2:])


async def test_plain_sockets_may_choose_their_congestion_control() -> None:
    assert await bench.raw_throughput(b"R", 1 << 20, congestion=LOCAL_CONGESTION) > 0
