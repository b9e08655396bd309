"""Tests of target.workers.administration: the admin socket's commands, with two workers behind them."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

import initiator
from iser.errors import ConnectionLost, ResourceError, UsageError
from target.workers import WorkersAdministration
from tests.target.peer import until
from tests.target.workers.site import ONE, TWO, link_to, lun, place, settings, supervised, target


async def test_views_are_of_all_workers_and_say_whose() -> None:
    async with supervised(settings(target(ONE), target(TWO, lun(), lun(1)))) as supervisor:
        admin = WorkersAdministration(supervisor)
        links = [await link_to(place(supervisor, portal, 1), name) for portal, name in (("tcp", ONE), ("rdma", TWO))]
        status = await admin.run("status", {})
        assert {key: status[key] for key in ("connections", "sessions", "logins", "luns", "targets")} == {
            "connections": 2, "sessions": 2, "logins": 2, "luns": 3, "targets": 2,
        }  # fmt: skip
        assert (status["pid"], status["logins_redirected"], status["draining"]) == (os.getpid(), 1, False)
        assert status["portals"] == [str(portal) for portal in supervisor.portals]
        assert status["staging"]["limit"] > 0
        one, two = status["workers"]
        assert (one["worker"], one["state"], one["targets"], one["sessions"]) == (1, "serving", [ONE], 1)
        assert (two["luns"], two["ports"]["tcp"], two["restarts"]) == (2, supervisor.own_port("tcp", 2), 0)
        sessions = await admin.run("sessions", {})
        assert [(each["worker"], each["target"], each["transport"]) for each in sessions] == [
            (1, ONE, "tcp"),
            (2, TWO, "iser"),
        ]
        assert [(each["worker"], each["target"], each["lun"]) for each in await admin.run("luns", {})] == [
            (1, ONE, 0),
            (2, TWO, 0),
            (2, TWO, 1),
        ]
        for link in links:
            await link.session.close()


async def test_a_session_is_dropped_by_its_number_whoever_has_it() -> None:
    async with supervised() as supervisor:
        admin = WorkersAdministration(supervisor)
        disks = [await initiator.connect(initiator.Url(place(supervisor, "tcp"), name)) for name in (ONE, TWO)]
        sessions: list[dict[str, Any]] = await admin.run("sessions", {})
        (number,) = (each["session"] for each in sessions if each["target"] == TWO)
        assert (await admin.run("drop-session", {"session": number}))["session"] == number
        with pytest.raises(ConnectionLost):
            await disks[1].write(0, bytes(512))
        await disks[0].write(0, bytes(512))
        for wrong in (0, -1, 65536, 4711):
            with pytest.raises(UsageError, match=f"there is no session {wrong}"):
                await admin.run("drop-session", {"session": wrong})
        with pytest.raises(UsageError, match="session"):
            await admin.run("drop-session", {"session": "x"})
        for disk in disks:
            await disk.close()


async def test_a_lun_is_resized_by_its_owner(tmp_path: Any) -> None:
    disk = lun(backend="file", path=str(tmp_path / "disk"))
    async with supervised(settings(target(ONE), target(TWO, disk))) as supervisor:
        admin = WorkersAdministration(supervisor)
        result = await admin.run("resize", {"lun": 0, "size": "2M", "target": TWO})
        assert (result["before"], result["size"]) == (1 << 20, 2 << 20)
        with pytest.raises(UsageError, match="say which of the 2 targets"):
            await admin.run("resize", {"lun": 0, "size": "2M"})
        with pytest.raises(UsageError, match="there is no target 'x'"):
            await admin.run("resize", {"lun": 0, "target": "x"})
        with pytest.raises(UsageError, match="has no LUN 7"):
            await admin.run("resize", {"lun": 7, "target": TWO})
        await supervisor.reload(settings(target(TWO, disk)))
        assert (await admin.run("resize", {"lun": 0, "size": "3M"}))["size"] == 3 << 20


async def test_log_levels_reach_all_also_who_starts_later(capfd: pytest.CaptureFixture[str]) -> None:
    async with supervised() as supervisor:
        admin = WorkersAdministration(supervisor, {"hello": _hello})
        assert await admin.run("set-log", {"levels": ["error"]}) == {"levels": ["error"]}
        with pytest.raises(UsageError, match="'loud' does not exist"):
            await admin.run("set-log", {"levels": ["loud"]})
        worker = supervisor.slots[0].worker
        assert worker
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: supervisor.slots[0].worker is None)
        status = await admin.run("status", {})
        assert [each["state"] for each in status["workers"]] == ["starting", "serving"]
        with pytest.raises(ResourceError, match="worker 1 is being started again"):
            await admin.run("resize", {"lun": 0, "target": ONE})
        await until(lambda: supervisor.slots[0].worker)
        capfd.readouterr()
        for name in (ONE, TWO):
            await (await link_to(place(supervisor, "tcp"), name)).session.close()
        assert "worker" not in capfd.readouterr().err
        assert await admin.run("hello", {}) == "hello"
        with pytest.raises(UsageError, match="'format-disk' is no command; use status, "):
            await admin.run("format-disk", {})
        await admin.run("set-log", {"levels": ["info"]})


async def _hello(_: dict[str, Any]) -> str:
    return "hello"
