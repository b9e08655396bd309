"""Tests of tests.benchmark.process and host: nothing of a benchmark is left behind, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmark.host import free_port, work_folder
from tests.benchmark.process import said, started
from tests.lab.build import PROJECT

#: Ignores SIGTERM, and so does its child; says both ids.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(os.getpid(), child, flush=True)
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def pids_of(process: asyncio.subprocess.Process) -> list[int]:
    assert process.stdout
    return [int(word) for word in (await process.stdout.readline()).split()]


async def test_what_ignores_the_signal_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.benchmark.process._STOP_SECONDS", 0.2)
    async with started((sys.executable, "-c", STUBBORN), tmp_path / "log") as process:
        pids = await pids_of(process)
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))


async def test_a_cancelled_benchmark_ends_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmark.process._STOP_SECONDS", 0.2)
    running: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with started((sys.executable, "-c", STUBBORN), tmp_path / "log") as process:
            running.set_result(await pids_of(process))
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    pids = await running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(map(is_alive, pids))


async def test_the_last_words_are_those_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with started((sys.executable, "-c", "raise SystemExit('no such disk')"), log) as process:
        await process.wait()
    assert said(log) == "no such disk"


def test_the_work_folder_is_gone_and_a_large_one_is_on_the_disk() -> None:
    with work_folder(1) as folder:
        (folder / "disk").write_bytes(b"x")
    assert not folder.exists()
    with work_folder(1 << 60) as folder:
        assert not folder.is_relative_to("/dev/shm")


def test_a_free_port_is_one() -> None:
    assert 0 < free_port() < 65536


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_leaves_no_process_and_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.benchmark", "growth"]
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as benchmark:
        deadline = time.monotonic() + 30
        children: list[int] = []
        while len(children) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            path = Path(f"/proc/{benchmark.pid}/task/{benchmark.pid}/children")
            children = [int(word) for word in path.read_text().split()]
        folder = Path(os.readlink(f"/proc/{children[0]}/fd/2")).parent
        benchmark.send_signal(number)
        printed, _ = benchmark.communicate(timeout=30)
    assert benchmark.returncode == 130
    assert "ended before it was done" in printed
    assert not any(map(is_alive, children))
    assert not folder.exists()
