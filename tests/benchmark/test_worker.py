"""Tests of the benchmark's own processes: our target and our initiator, over both transports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmark.host import BenchmarkError
from tests.benchmark.targets import fill, our_target
from tests.benchmark.worker import our_initiator

MIB = 1 << 20


@pytest.mark.parametrize("scheme", ["iscsi", "iser"])
async def test_transfers_of_every_kind(tmp_path: Path, scheme: str) -> None:
    disk = tmp_path / "disk"
    fill(disk, 4 * MIB)
    async with our_target(tmp_path, luns=2, size=4 * MIB, file=disk) as served, our_initiator(tmp_path) as worker:
        assert served.start_seconds > 0
        for lun in (0, 2):
            await worker.ask("connect", url=served.url(scheme, lun), count=2)
            await worker.ask("fill")
            for arguments in ({}, {"write": True}, {"elements": 128}, {"write": True, "elements": 128}):
                run = await worker.run(65536, 4, 0.05, latency=True, **arguments)
                assert run.histogram.total == run.ios > 0
                assert run.rate == pytest.approx(run.iops * 65536)
                assert run.cpu_ns > 0
            await worker.ask("open_luns", count=3)
            assert (await worker.run(4096, 8, 0.05)).ios > 0
            await worker.ask("close")


async def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    async with our_target(tmp_path) as served, our_initiator(tmp_path) as worker:
        with pytest.raises(BenchmarkError, match="ConnectionFailed: the target has no LUN 7"):
            await worker.ask("connect", url=served.url("iscsi", 7))
        await worker.ask("connect", url=served.url("iscsi", 0))
    with pytest.raises(BenchmarkError, match="our initiator: run"):
        await worker.run(4096, 1, 0.1)


async def test_a_target_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="size"):
        async with our_target(tmp_path, size=1):
            pass


def test_no_disk_has_holes(tmp_path: Path) -> None:
    fill(tmp_path / "disk", 2 * MIB)
    assert (tmp_path / "disk").stat().st_blocks * 512 >= 2 * MIB
