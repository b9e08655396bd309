"""Tests of target.admin.control."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from iser.errors import ConnectionFailed, UsageError
from target.admin.control import Control, admin_settings
from target.config import AdminConfig
from tests.target.admin.site import asked
from tests.target.peer import config, serving


def test_flags_count_more_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = config(admin={"socket": "/a/b", "metrics": "127.0.0.1:1"}).admin
    assert admin_settings(file, None, None) == file
    both = admin_settings(file, Path("here"), "[::1]:2")
    assert (both.socket, both.metrics) == (tmp_path / "here", ("::1", 2))
    with pytest.raises(UsageError, match="--metrics: '9260' is no address"):
        admin_settings(file, None, "9260")


async def test_both_are_open_and_say_where(tmp_path: Path) -> None:
    async def hello(arguments: dict[str, Any]) -> str:
        return f"hello {arguments['who']}"

    path = tmp_path / "admin"
    async with serving() as (server, _):
        control = await Control.open(
            server, AdminConfig.model_construct(socket=path, metrics=("127.0.0.1", 0)), {"hello": hello}
        )
        (first, second) = control.lines
        assert first == f"admin socket {path}"
        assert second.startswith("metrics http://127.0.0.1:")
        assert await asked(path, "hello", who="you") == "hello you"
        await control.close()
        await control.close()
        assert os.listdir(tmp_path) == []


async def test_metrics_that_cannot_be_leave_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with serving() as (server, _):
        taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        address = taken.sockets[0].getsockname()
        with pytest.raises(ConnectionFailed, match="cannot serve metrics"):
            await Control.open(server, AdminConfig.model_construct(socket=path, metrics=address))
        assert os.listdir(tmp_path) == []
        taken.close()


async def test_nothing_is_open_that_was_not_asked_for() -> None:
    async with serving() as (server, _):
        control = await Control.open(server, AdminConfig())
        assert control.lines == []
        await control.close()
