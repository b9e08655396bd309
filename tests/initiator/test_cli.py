from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import random
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from initiator.cli import app
from target.config import Config
from tests.target.peer import TARGET, serving

BLOCKS = 2048


class ServerThread(threading.Thread):
    """The real target on an event loop of its own, since each command runs one too."""

    def __init__(self, settings: Config | None = None) -> None:
        super().__init__(daemon=True)
        self.port = 0
        self._settings = settings
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with serving(self._settings) as (_, self.port):
            self._ready.set()
            await self._over.wait()

    def __enter__(self) -> ServerThread:
        self.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(10)
        assert not self.is_alive()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command run in this process sets up logging for the whole of it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread() as thread:
        yield thread


@pytest.fixture
def url(server: ServerThread) -> str:
    return f"iser://127.0.0.1:{server.port}/{TARGET}/0"


def invoke(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, arguments)


def iser(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command with real pipes."""
    command = [sys.executable, "-m", "initiator.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=30, check=False)


def one_line(text: str | bytes) -> str:
    """What a command wrote to stderr, which has to be one line."""
    lines = (text if isinstance(text, str) else text.decode()).splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_discover(server: ServerThread) -> None:
    result = invoke("discover", f"127.0.0.1:{server.port}")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{TARGET}  127.0.0.1:{server.port},1\n"


def test_info_tells_all_that_was_promised(url: str) -> None:
    result = invoke("--strategy", "bounce", "info", url)
    assert result.exit_code == 0, result.output
    for words in (
        "2048 blocks of 512 bytes, 1 MiB",
        "disk",
        "SG lists",
        "remote invalidate",
        "bounce",
        "rdma extensions",
    ):
        assert words in result.stdout


def test_ping(url: str) -> None:
    result = invoke("ping", url, "--count", "3", "--interval", "0")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("answer ") == 3
    assert "min " in result.stdout.splitlines()[-1]


def test_version_and_help() -> None:
    assert invoke("--version").stdout.startswith("iser 0.")
    help_text = invoke("--help").stdout
    assert "iser://[user%password@]host[:port]/iqn/lun" in help_text.replace("\n", "")  # brackets are no markup
    assert all(name in help_text for name in ("discover", "info", "read", "write", "copy", "ping", "demo", "bench"))


def test_bytes_through_pipes(url: str, tmp_path: Path) -> None:
    content = random.Random(4).randbytes(300 * 512)
    written = iser("write", url, "--lba", "7", stdin=content)
    assert (written.returncode, written.stderr) == (0, b"")
    assert iser("read", url, "--lba", "7", "--count", "300").stdout == content
    assert invoke("copy", url, str(tmp_path / "out")).exit_code == 0
    whole = (tmp_path / "out").read_bytes()
    assert len(whole) == BLOCKS * 512
    assert whole[7 * 512 : 307 * 512] == content
    (tmp_path / "in").write_bytes(whole[::-1])
    assert invoke("copy", str(tmp_path / "in"), f"{url}?strategy=indirect").exit_code == 0
    assert iser("copy", url, "-").stdout == whole[::-1]
    assert iser("copy", "-", url, stdin=whole).returncode == 0
    assert invoke("copy", url, url).exit_code == 0
    assert iser("read", url).stdout == whole


def test_a_partial_block_needs_pad(url: str) -> None:
    refused = iser("write", url, stdin=b"x" * 513)
    assert refused.returncode == 2
    assert "use --pad" in one_line(refused.stderr)
    assert iser("write", url, "--pad", stdin=b"y" * 513).returncode == 0
    assert iser("read", url, "--count", "2").stdout == b"y" * 513 + bytes(511)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "iser://127.0.0.1:{port}/iqn.2026-11.test:none/0"], 1, "no such target here"),
        (["info", "iser://127.0.0.1:{port}/iqn.2026-11.test:disk/9"], 1, "no LUN 9"),
        (["info", "iser://127.0.0.1:1/iqn.2026-11.test:disk/0"], 1, "127.0.0.1:1: nobody listens there"),
        (["info", "iser://127.0.0.1/disk"], 2, "'disk' is no iSCSI name"),
        (["info", "iser://me%pw@127.0.0.1/iqn.2026-11.test:disk"], 2, "has 2 bytes; CHAP needs 12"),
        (["read", "iser://127.0.0.1:{port}/iqn.2026-11.test:disk/0", "--lba", "9999"], 2, "LBA 9999 is not on the LUN"),
        (["discover", "nowhere:x"], 2, "port 'x'"),
        (["copy", "/nowhere/file", "-"], 2, "/nowhere/file: No such file"),
        (["--strategy", "magic", "discover", "127.0.0.1"], 2, "strategy 'magic' does not exist"),
        (["--log", "iser=loud", "discover", "127.0.0.1"], 2, "level 'loud'"),
    ],
)
def test_every_error_is_one_line(server: ServerThread, arguments: list[str], code: int, words: str) -> None:
    result = invoke(*(argument.replace("{port}", str(server.port)) for argument in arguments))
    assert words in one_line(result.stderr)
    assert result.exit_code == code


def test_usage_errors_exit_with_2() -> None:
    assert invoke("nonsense").exit_code == 2
    assert invoke("read", "--lba", "-1", "iser://h/iqn.2026-11.a:b").exit_code == 2


def test_a_reader_that_leaves_early_is_no_news(url: str) -> None:
    command = [sys.executable, "-m", "initiator.cli", "read", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(100)) == 100
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 1


def test_a_full_disk_is_told(url: str) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "initiator.cli", "read", url]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=30, check=False)
    assert result.returncode == 1
    assert "standard output: No space left on device" in one_line(result.stderr)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_quietly(url: str, number: signal.Signals, code: int) -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "initiator.cli", "write", url]
    with subprocess.Popen(command, stdin=reader, stderr=subprocess.PIPE) as process:
        os.write(writer, bytes(512))
        wait_until_read(reader)  # and now it waits for more
        os.close(reader)
        process.send_signal(number)
        assert process.stderr is not None
        assert process.wait(10) == code
        assert process.stderr.read() == b""
    os.close(writer)


def wait_until_read(pipe: int) -> None:
    """Return when nothing is left in ``pipe``."""
    for _ in range(1000):
        waiting = bytearray(4)
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
        if not any(waiting):
            return
        time.sleep(0.01)
    raise AssertionError("nobody reads")


def test_progress_is_for_terminals_only(url: str) -> None:
    primary, secondary = os.openpty()
    command = [sys.executable, "-m", "initiator.cli", "read", url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=secondary) as process:
        os.close(secondary)
        assert process.wait(20) == 0
    shown = b""
    try:
        while part := os.read(primary, 4096):
            shown += part
    except OSError:
        pass  # how Linux tells the end of a terminal
    os.close(primary)
    assert b"reading" in shown
