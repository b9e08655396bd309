"""Tests of target.closing: the end of a target whose stores do not answer, and of one whose do."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iser.errors import BackendError
from iser.scsi.cdb import write_blocks
from target import closing
from target.backends.memory import MemoryBackend
from target.closing import close_units
from target.server import TargetServer
from tests.target.peer import TARGET, Peer, config, disk, leave_nothing, until
from tests.target.scsi.bench import unit


class Stuck(MemoryBackend):
    """It ends when the test says so."""

    def __init__(self) -> None:
        super().__init__(1 << 20, name="stuck")
        self.released = asyncio.Event()

    async def close(self) -> None:
        await self.released.wait()
        await super().close()


class Failing(MemoryBackend):
    async def close(self) -> None:
        await super().close()
        raise BackendError("the last flush failed")


async def test_one_that_is_stuck_is_named_and_keeps_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(closing, "STUCK_TIMEOUT", 0.1)
    stuck, good, failing = Stuck(), MemoryBackend(1 << 20), Failing(1 << 20, name="failing")
    with caplog.at_level(logging.ERROR, "iser.target"):
        assert await close_units(map(unit, (stuck, good, failing))) == ["stuck"]
    assert sorted(record.getMessage() for record in caplog.records) == [
        "failing: not closed in good order: the last flush failed",
        "stuck does not end what it was told to, in 0.1 seconds; it is left so",
    ]
    stuck.released.set()
    await leave_nothing()
    assert await close_units([]) == []


async def test_a_target_ends_though_a_command_and_its_store_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "STUCK_TIMEOUT", 0.1)
    server = await TargetServer.start(config(target=disk({"on": "write", "action": "delay", "seconds": 3600})))
    backend = Stuck()
    server.registry.targets[TARGET].device.luns[0].backend.inner = backend  # type: ignore[attr-defined]
    peer = Peer()
    await peer.connect(server.addresses[0][1])
    await peer.log_in()
    await peer.clear_attention()
    peer.send_command(write_blocks(0, 1), write=bytes(512))
    await until(lambda: not server.connections[0].idle)
    began = time.monotonic()
    await server.close(drain=0.05)
    assert time.monotonic() - began < 5
    assert server.stuck == ["memory LUN 0"]
    await peer.datamover.close()
    backend.released.set()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await leave_nothing()


#: A target whose fdatasync never returns, with little patience.
SERVE = """
import os, sys, threading
import target.closing, target.cli, target.server
target.closing.STUCK_TIMEOUT = target.server.DRAIN_TIMEOUT = 0.2
os.fdatasync = lambda fd: threading.Event().wait()
sys.argv = ["iser-target", "serve", "--file", sys.argv[1], "--size", "1M", "--listen", "iscsi://127.0.0.1:0"]
target.cli.main()
"""


def test_a_process_ends_though_a_thread_is_stuck(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path / "disk")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("listening")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "does not end what it was told to" in errors
