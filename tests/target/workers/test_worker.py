"""Tests of target.workers.worker and target.workers.process: one worker, and what it answers by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from iser.errors import ConnectionLost, IserError, UsageError
from iser.logs import LogFormat
from target.workers.assignment import Assignment
from target.workers.messages import Logging, Start
from target.workers.worker import Worker
from tests.target.workers.site import ONE, settings, target

PORTAL = {"p": {"listen": "iscsi://127.0.0.1:0"}}
CONFIG = settings(target(ONE), portal=PORTAL)
ASSIGNMENT = Assignment(CONFIG, 1, {ONE: 1}, {"p": (1,)})
START = Start(ASSIGNMENT, ("p",), Logging(form=LogFormat.JSON))


@asynccontextmanager
async def one_worker(start: Start | None = START) -> AsyncIterator[tuple[Worker, int]]:
    """A worker that serves, and the port of its portal."""
    with socket.create_server(("127.0.0.1", 0)) as shared, socket.create_server(("127.0.0.1", 0)) as own:
        worker = await Worker.spawn(1)
        try:
            if start:
                await worker.start(start, [shared.fileno(), own.fileno()])
            yield worker, int(shared.getsockname()[1])
        finally:
            await worker.kill()


async def test_it_serves_what_it_was_told_and_ends_when_it_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    async with one_worker() as (worker, port):
        status = await worker.ask("status", {})
        assert (status["pid"], status["targets"], status["portals"]) == (worker.pid, 1, [f"iscsi://127.0.0.1:{port}"])
        with pytest.raises(UsageError, match="'dance' is no command"):
            await worker.ask("dance", {})
        with pytest.raises(IserError, match="has no configuration prepared"):
            await worker.ask("commit")
        await worker.ask("abort")  # nothing to go back on
        with socket.create_connection(("127.0.0.1", port)):
            await worker.stop()
        assert await worker.ended() == "exit code 0"
        assert '"worker": 1' in capfd.readouterr().err
        with pytest.raises(ConnectionLost):
            await worker.ask("status", {})


async def test_it_ends_when_its_parent_has_gone_in_the_middle_of_a_change() -> None:
    async with one_worker() as (worker, _):
        await worker.ask("prepare", Start(ASSIGNMENT.with_config(CONFIG), (), Logging()))
        worker._channel.close()
        assert await asyncio.wait_for(worker.ended(), 20) == "exit code 0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_of_the_service_manager_end_it_in_order(number: signal.Signals) -> None:
    async with one_worker() as (worker, _):
        os.kill(worker.pid, signal.SIGHUP)  # which is not for it
        assert (await worker.ask("status", {}))["draining"] is False
        os.kill(worker.pid, number)
        assert await asyncio.wait_for(worker.ended(), 20) == "exit code 0"


async def test_a_fault_of_the_configuration_is_told_in_its_words(tmp_path: Path) -> None:
    secret = settings(target(ONE), portal=PORTAL, chap={"u": {"secret_file": str(tmp_path / "none")}})
    with pytest.raises(UsageError, match=f"{tmp_path}/none"):
        async with one_worker(Start(ASSIGNMENT.with_config(secret), ("p",), Logging())):
            pass


async def test_it_does_not_hold_what_is_closed_and_needs_nothing_of_the_folder_that_it_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    async with one_worker(None) as (worker, _):
        assert len([link for link in open_files(worker.pid) if link.startswith("socket:")]) <= 1  # its channel
        await worker.stop()
        assert await worker.ended() == "exit code 0"


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process are."""
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]


async def test_a_worker_that_talks_nonsense_is_as_one_that_has_ended() -> None:
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec("sleep", "60")
    worker = Worker(1, process, ours)
    asking = asyncio.create_task(worker.ask("status", {}))
    await asyncio.sleep(0.01)
    theirs.sendall(struct.pack("!IH", 4, 0) + b"what")
    with pytest.raises(ConnectionLost, match="worker 1 has ended"):
        await asking
    await worker.kill()
    theirs.close()
