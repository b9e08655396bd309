"""Tests of target.cli, run as a user runs it."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from iser.pdu import ScsiResponse
from iser.scsi.cdb import write_blocks
from target.cli import main
from tests.target.peer import TARGET, Peer

COMMAND = [sys.executable, "-m", "target.cli"]
CONFIG = f"""
[portal.here]
listen = "iser://127.0.0.1:0"

[[target]]
name = "{TARGET}"

[[target.lun]]
id = 0
backend = "memory"
size = "1M"
faults = [{{ on = "write", action = "delay", seconds = 0.3 }}]
"""


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str) -> Result:
    """The command, in a process."""
    process = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return Result(process.returncode, process.stdout, process.stderr)


class Here:
    """The command in this process, for what ends before it serves: starting an interpreter takes most of the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["iser-target", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *self._capsys.readouterr())


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capsys)


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """A server process and the ports that it said it listens on, one for each portal."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "serve", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout
        ports = []
        for _ in range(max(1, arguments.count("--listen"))):
            line = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
            found = re.fullmatch(r"listening iser://(?:127\.0\.0\.1|\[::1\]):(\d+)\n", line)
            assert found, line
            ports.append(int(found[1]))
        yield process, ports
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 10)
    return process.returncode, out.decode(), err.decode()


async def test_sigterm_drains_a_command_in_flight_and_exits_0(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(CONFIG)
    async with started(str(file)) as (process, (port,)):
        peer = Peer()
        await peer.connect(port)
        await peer.log_in()
        await peer.clear_attention()
        itt = peer.send_command(write_blocks(0, 1), write=bytes(512))
        await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        response = await peer.expect(ScsiResponse)
        assert (response.itt, response.status) == (itt, 0)
        assert isinstance(await peer.over(), EOFError)
        await peer.datamover.close()
        code, out, err = await ended(process)
        assert (code, out) == (0, "")
        assert "Traceback" not in err


async def test_sigint_ends_it_too_and_several_portals_are_told() -> None:
    listen = ("--listen", "iser://127.0.0.1:0", "--listen", "iser://[::1]:0")
    async with started("--memory", "1M", "--name", TARGET, *listen) as (process, ports):
        assert len(ports) == 2
        process.send_signal(signal.SIGINT)
        assert (await ended(process))[0] == 0


async def line_with(process: asyncio.subprocess.Process, words: str) -> str:
    """The next line of the log that has ``words``."""
    assert process.stderr
    while True:
        line = (await asyncio.wait_for(process.stderr.readline(), 10)).decode()
        assert line, f"the process ended without {words!r}"
        if words in line:
            return line


async def test_sighup_reads_the_file_anew(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(CONFIG)
    async with started(str(file)) as (process, (port,)):
        peer = Peer()
        await peer.connect(port)
        await peer.log_in()
        await peer.clear_attention()
        file.write_text(CONFIG + '[[target.lun]]\nid = 1\nbackend = "memory"\nsize = "1M"\n')
        process.send_signal(signal.SIGHUP)
        assert f"add LUN 1 of {TARGET}: memory of 1048576 bytes" in await line_with(process, "reload: ")
        await line_with(process, "reload: 1 differences")
        response, sense = await peer.command(bytes(6))
        assert (response.status, sense[12], sense[13]) == (2, 0x3F, 0x0E)
        file.write_text(CONFIG.replace("id = 0", "id = -1"))
        process.send_signal(signal.SIGHUP)
        assert f"nothing changed: {file}:9: target[0].lun[0].id" in await line_with(process, "reload: ")
        assert (await peer.command(bytes(6)))[0].status == 0
        await peer.datamover.close()
        process.send_signal(signal.SIGTERM)
        code, _, err = await ended(process)
        assert code == 0
        assert "Traceback" not in err


async def test_sighup_without_a_file_is_told_and_harmless() -> None:
    async with started("--memory", "1M", "--listen", "iser://127.0.0.1:0") as (process, _):
        process.send_signal(signal.SIGHUP)
        await line_with(process, "was started from flags")
        process.send_signal(signal.SIGTERM)
        assert (await ended(process))[0] == 0


def test_check_is_quiet_about_a_good_file_and_has_a_line_for_each_fault(here: Here, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(CONFIG)
    bad.write_text(CONFIG.replace('size = "1M"', 'size = "much"').replace("id = 0", "id = -1"))
    result = here("check", str(good))
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 portals, 1 targets, 1 LUNs" in result.stdout
    result = here("check", str(bad))
    assert (result.returncode, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{bad}:9", f"{bad}:11"]


def test_faults_of_the_user_are_one_sentence_each(here: Here, tmp_path: Path) -> None:
    cases = {
        ("serve",): "--memory",
        ("serve", "--memory", "huge"): "--memory",
        ("serve", "--memory", "1M", "--listen", "nowhere"): "--listen",
        ("serve", "--memory", "1M", "--log", "iser=loud"): "'loud' does not exist",
        ("serve", str(tmp_path / "none.toml")): "cannot be read",
        ("serve", str(tmp_path / "none.toml"), "--memory", "1M"): "goes without a configuration file",
    }
    for arguments, words in cases.items():
        result = here(*arguments)
        assert (result.returncode, result.stdout) == (2, ""), arguments
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1, result.stderr


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--memory", "1M", "--listen", f"iser://127.0.0.1:{port}")
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert str(port) in result.stderr
    assert "in use" in result.stderr


def test_help_needs_no_configuration(here: Here) -> None:
    for result in (here(), here("--help"), here("serve", "--help"), run("--help")):
        assert "Traceback" not in result.stderr
        assert "serve" in result.stdout + result.stderr


async def test_what_to_log_is_a_choice() -> None:
    listen = ("--listen", "iser://127.0.0.1:0", "--log", "warning", "--log", "iser.target=debug")
    async with started("--memory", "1M", *listen) as (process, (port,)):
        peer = Peer()
        await peer.connect(port)
        await peer.datamover.close()
        process.send_signal(signal.SIGTERM)
        code, _, err = await ended(process)
        assert code == 0
        assert {line.split()[3] for line in err.splitlines()} == {"iser.target"}
