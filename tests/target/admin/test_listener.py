"""Tests of target.admin.listener: the socket itself, and clients that send whatever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from iser.errors import ConnectionFailed, UsageError
from target.admin.listener import MAX_CLIENTS, MAX_LINE
from tests.target.admin.site import administered, asked
from tests.target.peer import settled


async def test_only_the_owner_may_open_it_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with administered(tmp_path / "admin"):
            mode = (tmp_path / "admin").stat().st_mode
    finally:
        os.umask(old)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / "admin").exists()


async def test_what_a_dead_target_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    stale, file = tmp_path / "stale", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))
    file.write_text("precious")
    async with administered(stale):
        assert (await asked(stale, "status"))["sessions"] == 0
        with pytest.raises(UsageError, match="a target is running at"):
            async with administered(stale):
                pass
        assert (await asked(stale, "status"))["sessions"] == 0
    with pytest.raises(UsageError, match="is no socket"):
        async with administered(file):
            pass
    assert file.read_text() == "precious"


@pytest.mark.parametrize("name", ["nowhere/admin", "x" * 200])
async def test_a_path_that_cannot_be_is_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match="cannot open the admin socket"):
        async with administered(tmp_path / name):
            pass


async def test_a_socket_that_is_another_s_by_now_stays(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with administered(path):
        kept = path.rename(tmp_path / "moved")  # keeps its inode in use
        path.write_text("another")
    assert path.read_text() == "another"
    kept.unlink()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"command": 1}',
        b'{"command": "status", "arguments": []}',
        b"[" * 50000,
    ],
)
async def test_nonsense_is_answered_and_the_next_request_too(line: bytes, tmp_path: Path) -> None:
    async with administered(tmp_path / "admin"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "admin")
        writer.write(line + b'\n{"command": "status"}\n')
        first, second = [json.loads(await reader.readline()) for _ in range(2)]
        assert (first["ok"], first["usage"], bool(first["error"])) == (False, True, True)
        assert second["ok"]
        writer.close()


async def test_a_line_without_end_and_a_crowd_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with administered(path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * (MAX_LINE * 3))
        with contextlib.suppress(ConnectionResetError):  # there was more to come
            assert await reader.read() == b""
        writer.close()
        crowd = [await asyncio.open_unix_connection(path) for _ in range(MAX_CLIENTS)]
        await settled()
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""
        for _, other in (*crowd, (reader, writer)):
            other.close()
        await settled()
        assert (await asked(path, "status"))["sessions"] == 0
