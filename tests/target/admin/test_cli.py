"""Tests of target.admin.cli: the commands as a user runs them, in a process of their own where that counts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from iser.errors import UsageError
from target.admin.cli import duration, size_name
from target.cli import app
from tests.target.admin.site import administered
from tests.target.peer import INITIATOR, TARGET, config, disk, served, until

COMMAND = (sys.executable, "-m", "target.cli")


async def run(path: Path, *words: str) -> Result:
    """In a thread of this process, whose loop serves."""
    return await asyncio.to_thread(CliRunner().invoke, app, [*words, "--admin", str(path)])


async def told(path: Path, *words: str) -> str:
    result = await run(path, *words)
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_tables_have_what_the_json_has(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with administered(path, config(target=disk(luns=2))) as (_, port):
        assert await told(path, "sessions") == "no sessions\n"
        async with served(port) as peer:
            (session,) = json.loads(await told(path, "sessions", "--json"))
            assert (session["session"], session["initiator"]) == (peer.login.tsih, INITIATOR)
            table = await told(path, "sessions")
            assert all(text in table for text in (INITIATOR, session["address"], TARGET, "0/64"))
            luns = await told(path, "luns")
            assert luns.count(TARGET) == 2
            assert "1 MiB" in luns
            status = await told(path, "status")
            assert f"iser://127.0.0.1:{port}" in status
            assert "1 on 1 connections, 1 since the start" in status
            assert json.loads(await told(path, "status", "--json"))["luns"] == 2


async def test_addresses_in_brackets_are_no_markup(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    settings = config(portal={"p": {"listen": "iscsi://[::1]:0"}})
    async with administered(path, settings) as (server, port):
        _, writer = await asyncio.open_connection("::1", port)
        assert f"iscsi://[::1]:{port}" in await told(path, "status")
        writer.close()
        await until(lambda: not server.connections)


async def test_changes_are_one_sentence_each(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with administered(path, config(target=disk(backend="file", path=str(tmp_path / "d")))) as (_, port):
        assert await told(path, "resize", "0", "2M") == f"{TARGET} LUN 0: 1 MiB -> 2 MiB\n"
        assert await told(path, "set-log", "iser.test=warning") == "log levels set: iser.test=warning\n"
        async with served(port) as peer:
            number = str(peer.login.tsih)
            assert await told(path, "drop-session", number) == f"dropped session {number} of {INITIATOR}\n"
        result = await run(path, "drop-session", "4711")
        assert isinstance(result.exception, UsageError)


async def test_a_reload_says_what_it_changed(tmp_path: Path) -> None:
    answers = [["add portal x: here", "remove portal y: there"], []]

    async def reload(arguments: dict[str, object]) -> list[str]:
        assert arguments == {}
        return answers.pop(0)

    path = tmp_path / "admin"
    async with administered(path, more={"reload": reload}):
        assert await told(path, "reload") == "add portal x: here\nremove portal y: there\n"
        assert await told(path, "reload") == "no difference\n"


@pytest.mark.parametrize(
    ("size", "name"), [(0, "0 B"), (1000, "1000 B"), (1536, "1.5 KiB"), (10 << 30, "10 GiB"), (1 << 60, "1024 PiB")]
)
def test_sizes(size: int, name: str) -> None:
    assert size_name(size) == name


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0s"), (59, "59s"), (184, "3m04s"), (7399, "2h03m"), (5 * 86400 + 7200, "5d02h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_a_target_that_is_not_running_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "status", stderr=asyncio.subprocess.PIPE, env=os.environ | {"ISER_TARGET_ADMIN": f"{tmp_path}/none"}
    )
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    where = f"{tmp_path}/none"
    assert err.decode() == f"no target is running at {where}; start one with 'serve --admin {where}'\n"


async def test_a_served_target_is_watched_from_its_start_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        manager.setblocking(False)
        arguments = ("--memory", "1M", "--listen", "iser://127.0.0.1:0", "--log-format", "json")
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "serve", *arguments, "--admin", str(path), "--metrics", "127.0.0.1:0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"NOTIFY_SOCKET": f"{tmp_path}/notify"},
        )
        assert process.stdout
        lines = [(await asyncio.wait_for(process.stdout.readline(), 20)).decode().split() for _ in range(3)]
        assert [line[0] for line in lines] == ["listening", "admin", "metrics"]
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(manager, 99), 5) == b"READY=1"
        assert json.loads(await told(path, "status", "--json"))["pid"] == process.pid
        with await asyncio.to_thread(urllib.request.urlopen, lines[2][1]) as answer:
            assert b"iser_target_sessions 0.0" in answer.read()
        await told(path, "set-log", "info")
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0
        assert await asyncio.wait_for(loop.sock_recv(manager, 99), 5) == b"STOPPING=1"
    assert "log levels set: info" in {json.loads(line)["message"] for line in err.splitlines()}
    assert sorted(os.listdir(tmp_path)) == ["notify"]
