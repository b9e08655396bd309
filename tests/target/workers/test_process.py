"""Tests of target.workers.process as part of ``iser-target serve``: the command, its signals, and its death."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from initiator.url import Portal
from tests.target.admin.site import asked
from tests.target.peer import until
from tests.target.workers.site import ONE, TWO, check_data

COMMAND = (sys.executable, "-m", "target.cli")
CONFIG = f"""
workers = 2

[portal.tcp]
listen = "iscsi://127.0.0.1:0"

[portal.rdma]
listen = "iser://127.0.0.1:0"

[[target]]
name = "{ONE}"
[[target.lun]]
id = 0
backend = "memory"
size = "1M"

[[target]]
name = "{TWO}"
worker = 2
[[target.lun]]
id = 0
backend = "memory"
size = "1M"
"""


@asynccontextmanager
async def started(
    folder: Path, *words: str, manager: socket.socket | None = None
) -> AsyncIterator[tuple[Process, list[Portal]]]:
    """``serve`` with its admin socket at ``folder``/admin, and its portals."""
    (folder / "target.toml").write_text(CONFIG)
    environment = dict(os.environ)
    if manager:
        manager.bind(str(folder / "notify"))
        environment["NOTIFY_SOCKET"] = str(folder / "notify")
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "serve", str(folder / "target.toml"), "--admin", str(folder / "admin"), *words,
        stdout=PIPE, stderr=PIPE, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout
        portals = []
        for scheme, transport in (("iscsi", "tcp"), ("iser", "iser")):
            line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
            found = re.fullmatch(rf"listening {scheme}://127\.0\.0\.1:(\d+)\n", line)
            assert found, line
            portals.append(Portal("127.0.0.1", int(found[1]), "tcp" if transport == "tcp" else "iser"))
        assert await process.stdout.readline() == f"admin socket {folder}/admin\n".encode()
        yield process, portals
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def pids(folder: Path) -> list[int]:
    return [each["pid"] for each in (await asked(folder / "admin", "status"))["workers"]]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_the_service_manager_hears_of_all_as_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        async with started(tmp_path, "--log-format", "json", manager=manager) as (process, portals):
            await until(lambda: manager.recv(99) == b"READY=1" if readable(manager) else False)
            for portal in portals:
                for name in (ONE, TWO):
                    await check_data(portal, name)
            workers = await pids(tmp_path)
            (tmp_path / "target.toml").write_text(CONFIG.replace('"1M"', '"2M"', 1))
            process.send_signal(signal.SIGHUP)
            for _ in range(400):
                luns = await asked(tmp_path / "admin", "luns")
                if luns[0]["size"] == 2 << 20:
                    break
                await asyncio.sleep(0.05)
            assert [(each["worker"], each["size"]) for each in luns] == [(1, 2 << 20), (2, 1 << 20)]
            assert await asked(tmp_path / "admin", "reload") == []
            # As systemd does it: to every process of the service, the main one first.
            for pid in (process.pid, *workers):
                os.kill(pid, signal.SIGTERM)
            out, err = await asyncio.wait_for(process.communicate(), 30)
            assert (process.returncode, out) == (0, b"")
            assert all(map(gone, workers))
            assert manager.recv(99) == b"STOPPING=1"
            lines = [json.loads(line) for line in err.splitlines()]
            assert {line.get("worker") for line in lines} == {None, 1, 2}
            assert not any("starting it again" in line["message"] for line in lines)
            assert not any("exception" in line for line in lines)


def readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    async with started(tmp_path) as (process, portals):
        workers = await pids(tmp_path)
        process.kill()
        await process.wait()  # it has the listening sockets too
        await until(lambda: all(map(gone, workers)))
        assert all(map(gone, workers))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(portals[0].host, portals[0].port)


async def test_check_says_who_serves_what_and_status_how_they_are(tmp_path: Path) -> None:
    async with started(tmp_path):
        check = await run("check", str(tmp_path / "target.toml"))
        assert check.splitlines()[1:] == [f"worker 1: {ONE}", f"worker 2: {TWO}"]
        status = await run("status", "--admin", str(tmp_path / "admin"))
        assert re.search(r"^worker 2 +serving, pid \d+, up \w+: 1 targets, 1 LUNs, 0 sessions$", status, re.MULTILINE)
        assert re.search(r"^redirected +0 logins$", status, re.MULTILINE)
        assert "worker" in await run("luns", "--admin", str(tmp_path / "admin"))


async def run(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(*COMMAND, *words, stdout=PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_other_initiators_follow(tmp_path: Path) -> None:
    """Those that are here; libiscsi and qemu are in the interoperability matrix, too."""
    async with started(tmp_path) as (_, (tcp, _)):
        for tool in (("iscsi-inq",), ("iscsi-readcapacity16",), ("qemu-img", "info", "-f", "raw")):
            if shutil.which(tool[0]):
                before = (await asked(tmp_path / "admin", "status"))["logins_redirected"]
                await run_until_redirected(tool, tcp, tmp_path / "admin", before)


async def run_until_redirected(tool: tuple[str, ...], portal: Portal, admin: Path, before: int) -> None:
    """It has to do its work each time, whichever worker takes its connection."""
    for _ in range(20):
        for name in (ONE, TWO):
            command = (*tool, f"iscsi://{portal}/{name}/0")
            await asyncio.to_thread(subprocess.run, command, check=True, timeout=20, capture_output=True)
        if (await asked(admin, "status"))["logins_redirected"] > before:
            return
    raise AssertionError("every login of 20 came to the right worker")
