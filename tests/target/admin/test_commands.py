"""Tests of target.admin.commands, through the socket."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from iser.errors import UsageError
from iser.scsi import cdb
from target.admin.commands import MAX_SPECS, percentile
from target.counters import LunCounters
from tests.target.admin.site import administered, asked
from tests.target.peer import INITIATOR, TARGET, config, disk, served, until


async def test_status_counts_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with administered(path, config(target=disk(luns=2))) as (_, port):
        async with served(port):
            status = await asked(path, "status")
        assert (status["pid"], status["targets"], status["luns"]) == (os.getpid(), 1, 2)
        assert (status["sessions"], status["connections"], status["logins"]) == (1, 1, 1)
        assert status["portals"] == [f"iser://127.0.0.1:{port}"]
        assert status["staging"]["in_use"] == 0
        assert status["logins_refused"] == {}
        assert not status["draining"]


async def test_sessions_and_luns_say_what_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with administered(path) as (_, port), served(port) as peer:
        await peer.command(cdb.write_blocks(0, 2), write=bytes(1024))
        (session,) = await asked(path, "sessions")
        (lun,) = await asked(path, "luns")
        assert (session["session"], session["initiator"], session["target"]) == (peer.login.tsih, INITIATOR, TARGET)
        assert (session["transport"], session["portal"], session["discovery"]) == ("iser", "p", False)
        assert (session["running"], session["window"], session["credits"]) == (0, 64, 64)
        for view in (session, lun):
            assert (view["commands"], view["read_bytes"], view["written_bytes"], view["errors"]) == (2, 0, 1024, 1)
        assert (lun["target"], lun["lun"], lun["size"], lun["block_size"]) == (TARGET, 0, 1 << 20, 512)
        assert 0 < lun["latency_mean"] < lun["latency_p99"] < 1


async def test_a_session_is_dropped_and_the_other_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with administered(path) as (server, port):
        async with served(port) as other:
            async with served(port, isid=bytes.fromhex("80cafe000002")) as peer:
                result = await asked(path, "drop-session", session=peer.login.tsih)
                assert result == {"session": peer.login.tsih, "initiator": INITIATOR}
                assert isinstance(await peer.over(), EOFError)
            await until(lambda: server.sessions == 1)
            assert [each["session"] for each in await asked(path, "sessions")] == [other.login.tsih]
            response, _ = await other.command(bytes(6))
            assert response.status == 0
        with pytest.raises(UsageError, match="there is no session 4711"):
            await asked(path, "drop-session", session=4711)


async def test_a_lun_grows_while_it_is_in_use(tmp_path: Path) -> None:
    path, file = tmp_path / "admin", str(tmp_path / "disk")
    async with administered(path, config(target=disk(backend="file", path=file))) as (_, port):
        async with served(port) as peer:
            result = await asked(path, "resize", lun=0, size="2M")
            assert (result["before"], result["size"], os.stat(file).st_size) == (1 << 20, 2 << 20, 2 << 20)
            response, sense = await peer.command(cdb.write_blocks(4000, 1), write=bytes(512))
            assert (response.status, sense[12], sense[13]) == (2, 0x2A, 0x09)  # CAPACITY DATA HAS CHANGED
            response, _ = await peer.command(cdb.write_blocks(4000, 1), write=bytes(512))
            assert response.status == 0
        os.truncate(file, 3 << 20)
        assert (await asked(path, "resize", lun=0, target=TARGET))["size"] == 3 << 20


async def test_a_lun_in_memory_grows_and_shrinks_while_it_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    async with administered(path) as (_, port), served(port) as peer:
        await peer.command(cdb.write_blocks(2047, 1), write=b"x" * 512)
        stored = bytearray(512)
        for size, blocks in (("2M", 4096), ("512K", 1024), ("1M", 2048)):
            await asked(path, "resize", lun=0, size=size)
            assert (await peer.command(bytes(6)))[1][12:14] == b"\x2a\x09"
            for lba, status in ((blocks - 1, 0), (blocks, 2)):
                response, _ = await peer.command(cdb.read_blocks(lba, 1), read=stored)
                assert response.status == status
        await peer.command(cdb.read_blocks(2047, 1), read=stored)
        assert not any(stored)  # what was cut off is not there again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lun": 5}, "has no LUN 5"),
        ({"lun": 0, "target": "iqn.2026-11.test:none"}, "there is no target"),
        ({"lun": 0}, "say which of the 2 targets"),
        ({"lun": 0, "size": "much"}, "size: 'much' is not a size"),
        ({}, "lun: Field required"),
        ({"lun": 0, "force": True}, "force: Extra inputs"),
        ({"lun": "0"}, "lun: Input should be"),
    ],
)
async def test_a_resize_that_cannot_be(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    two = disk() + disk(name=TARGET + "2")
    named = {"target": TARGET} if words == "has no LUN 5" else {}
    async with administered(tmp_path / "admin", config(target=two)):
        with pytest.raises(UsageError, match=words):
            await asked(tmp_path / "admin", "resize", **(arguments | named))


async def test_log_levels_change_while_running(tmp_path: Path) -> None:
    logger = logging.getLogger("iser.test-admin")
    async with administered(tmp_path / "admin"):
        assert await asked(tmp_path / "admin", "set-log", levels=["iser.test-admin=debug"]) == {
            "levels": ["iser.test-admin=debug"]
        }
        assert logger.level == logging.DEBUG
        logger.setLevel(logging.NOTSET)
        for levels in (["iser.test-admin=loud"], [], ["info"] * (MAX_SPECS + 1)):
            with pytest.raises(UsageError):
                await asked(tmp_path / "admin", "set-log", levels=levels)
        assert logger.level == logging.NOTSET


async def test_a_command_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    async with administered(tmp_path / "admin"):
        with pytest.raises(UsageError, match="'dance' is no command; use status, sessions, luns"):
            await asked(tmp_path / "admin", "dance")
        with pytest.raises(UsageError, match="x: Extra inputs"):
            await asked(tmp_path / "admin", "status", x=1)


def test_a_percentile_is_an_upper_bound() -> None:
    counters = LunCounters()
    assert percentile(counters, 0.99) is None
    counters.commands = 100
    counters.latency[10], counters.latency[20] = 99, 1
    assert percentile(counters, 0.99) == 1024e-9
    assert percentile(counters, 1.0) == (1 << 20) / 1e9
