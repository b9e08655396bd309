"""Tests of target.workers.supervisor, with processes for workers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

import initiator
from initiator.establish import send_targets
from iser.errors import ConnectionFailed, ConnectionLost, IserError, LoginError, UsageError
from target.config.model import Config
from target.reload import ReloadIncomplete
from target.workers import Supervisor, WorkersAdministration
from target.workers import supervisor as supervisor_module
from target.workers import worker as worker_module
from tests.target.peer import until
from tests.target.workers.site import ONE, PORTALS, TWO, check_data, link_to, lun, place, settings, supervised, target

THREE = "iqn.2026-11.test:three"


def pid(supervisor: Supervisor, number: int) -> int:
    worker = supervisor.slots[number - 1].worker
    assert worker
    return worker.pid


def alive(pid: int) -> bool:
    """Whether a process of ours runs or hangs; one that has ended and was waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_whoever_comes_to_the_wrong_worker_is_sent_to_the_right_one() -> None:
    async with supervised() as supervisor:
        assert supervisor.owners == {ONE: 1, TWO: 2}
        for portal in PORTALS:
            for name, owner in supervisor.owners.items():
                for worker in (1, 2):
                    link = await link_to(place(supervisor, portal, worker), name)
                    assert link.portal == place(supervisor, portal, owner)
                    await link.session.close()
                for _ in range(4):  # whichever worker takes the connection
                    await check_data(place(supervisor, portal), name)
        counted = await supervisor.ask_all("status", {})
        assert all(answer["logins_redirected"] >= 2 for answer in counted.values())


async def test_discovery_tells_of_all_targets_at_the_shared_portal_whoever_answers() -> None:
    rules = [{"initiator": "iqn.2026-11.test:nobody"}]
    hidden = target(THREE, acl=rules)
    async with supervised(settings(target(ONE), target(TWO, portals=["tcp"]), hidden)) as supervisor:
        port = place(supervisor, "tcp").port
        for worker in (1, 2):
            link = await link_to(place(supervisor, "tcp", worker), "")
            records = await send_targets(link.session, 10)
            await link.session.close()
            assert {each.name: [address.port for address in each.addresses] for each in records} == {
                ONE: [port],
                TWO: [port],
            }
            with pytest.raises(LoginError) as caught:  # by either worker: who may not log in is not sent anywhere
                await link_to(place(supervisor, "tcp", worker), THREE)
            assert (caught.value.status_class, caught.value.status_detail) == (2, 2)
            with pytest.raises(LoginError) as caught:
                await link_to(place(supervisor, "rdma", worker), TWO)
            assert (caught.value.status_class, caught.value.status_detail) == (2, 3)


async def test_a_worker_that_is_killed_comes_back_and_the_other_does_not_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with supervised() as supervisor:
        where = place(supervisor, "tcp")
        other = await initiator.connect(initiator.Url(where, TWO))
        mine = await initiator.connect(initiator.Url(where, ONE))
        first = pid(supervisor, 1)
        os.kill(first, signal.SIGKILL)
        await other.write(0, bytes(512))
        with pytest.raises(ConnectionLost):
            await mine.write(0, bytes(512))
        # Its port outlives it, so that a login waits instead of being refused.
        await check_data(place(supervisor, "tcp", 1), ONE)
        await check_data(where, ONE)
        await other.write(0, bytes(512))
        assert pid(supervisor, 1) != first
        assert [slot.restarts for slot in supervisor.slots] == [1, 0]
        assert f"worker 1 (pid {first}) ended: SIGKILL; starting it again in 0.5 s" in caplog.text
        await other.close()
        await mine.close()


async def test_a_worker_that_cannot_start_again_is_tried_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_BACKOFF", 0.05)
    store = tmp_path / "disk"
    store.touch()
    config = settings(target(ONE, lun(backend="file", path=str(store))), target(TWO))
    async with supervised(config) as supervisor:
        store.rename(tmp_path / "away")
        store.mkdir()
        for slot in supervisor.slots:
            slot.backoff = 0.05
        os.kill(pid(supervisor, 1), signal.SIGKILL)
        await until(lambda: "worker 1 cannot serve" in caplog.text)
        assert supervisor.slots[0].worker is None
        await check_data(place(supervisor, "tcp"), TWO)
        store.rmdir()
        # A reload is what an administrator does after mending it; it does not wait for the next try.
        await supervisor.reload(config)
        await until(lambda: supervisor.slots[0].worker)
        await check_data(place(supervisor, "tcp"), ONE)
        assert supervisor.slots[0].restarts == 1


async def test_a_hanging_worker_is_left_out_and_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "STOP_TIMEOUT", 0.2)
    supervisor = await Supervisor.start(settings())
    hung = pid(supervisor, 1)
    os.kill(hung, signal.SIGSTOP)
    worker = supervisor.slots[0].worker
    assert worker
    with pytest.raises(IserError, match=r"worker 1 did not answer within 0\.1 seconds"):
        await worker.ask("status", {}, timeout=0.1)
    await check_data(place(supervisor, "tcp"), TWO)
    monkeypatch.setattr(worker_module.Worker.ask, "__defaults__", (None, (), 0.2))
    await supervisor.close()
    assert not alive(hung)


async def test_the_end_waits_for_running_commands_and_leaves_nothing() -> None:
    slow = {"on": "write", "action": "delay", "seconds": 0.5}
    supervisor = await Supervisor.start(settings(target(ONE, lun(faults=[slow])), target(TWO)))
    where = place(supervisor, "tcp")
    pids = [pid(supervisor, number) for number in (1, 2)]
    disk = await initiator.connect(initiator.Url(where, ONE))
    writing = asyncio.create_task(disk.write(0, bytes(512)))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(supervisor.close())
    await asyncio.sleep(0.1)
    status = await WorkersAdministration(supervisor).run("status", {})
    assert (status["draining"], status["portals"]) == (True, [str(portal) for portal in supervisor.portals])
    await closing
    await writing
    assert not any(map(alive, pids))
    await disk.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(where.host, where.port)
    with pytest.raises(UsageError, match="is shutting down"):
        await supervisor.reload(supervisor.config)
    await supervisor.close()


async def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(IserError, match="not-there"):
        await Supervisor.start(
            settings(target(ONE), target(TWO, lun(backend="file", path=str(tmp_path / "not-there"), size=None)))
        )
    assert children() == before
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=f"cannot listen on 127.0.0.1:{port}"):
            await Supervisor.start(settings(portal={"p": {"listen": f"iscsi://127.0.0.1:{port}"}}))
    assert children() == before


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


# Reload


async def test_a_reload_reaches_all_and_leaves_sessions_alone() -> None:
    async with supervised() as supervisor:
        where = place(supervisor, "tcp")
        disks = [await initiator.connect(initiator.Url(where, name)) for name in (ONE, TWO)]
        added = target(THREE)
        more = PORTALS | {"more": {"listen": "iscsi://127.0.0.1:0"}}
        changes = await supervisor.reload(settings(added, target(ONE), target(TWO), portal=more))
        assert [(change.verb, change.what) for change in changes] == [
            ("add", "portal more"),
            ("add", f"target {THREE}"),
        ]
        assert supervisor.owners == {ONE: 1, TWO: 2, THREE: 1}
        for disk in disks:
            await disk.write(0, bytes(512))
        for worker in (1, 2):
            for name in (ONE, TWO, THREE):
                await check_data(place(supervisor, "more", worker), name)
        assert await supervisor.reload(supervisor.config) == []
        await supervisor.reload(settings(target(TWO)))
        with pytest.raises(ConnectionLost):
            await disks[0].write(0, bytes(512))
        await disks[1].write(0, bytes(512))
        with pytest.raises(LoginError, match="no such target"):
            await link_to(where, THREE)
        assert [portal.transport for portal in supervisor.portals] == ["tcp", "iser"]
        for disk in disks:
            await disk.close()


async def test_a_reload_that_fails_at_one_worker_changes_nothing_at_any(tmp_path: Path) -> None:
    async with supervised() as supervisor:
        old = supervisor.config
        broken = lun(1, backend="file", path=str(tmp_path / "no" / "disk"))
        with pytest.raises(IserError, match="no/disk"):
            await supervisor.reload(settings(target(ONE, lun(), lun(1)), target(TWO, lun(), broken)))
        assert supervisor.config is old
        luns = await supervisor.ask_all("luns", {})
        assert {number: len(views) for number, views in luns.items()} == {1: 1, 2: 1}
        with pytest.raises(UsageError, match=r"wants worker 3, but 2 run"):
            await supervisor.reload(settings(target(ONE, worker=3), target(TWO)))
        changes = await supervisor.reload(settings(target(ONE), target(TWO, alias="after all")))
        assert [change.detail for change in changes] == ["alias unset -> after all"]


async def test_a_file_goes_from_one_worker_to_the_other(tmp_path: Path) -> None:
    disk = lun(backend="file", path=str(tmp_path / "disk"))
    async with supervised(settings(target(ONE, disk), target(TWO))) as supervisor:
        where = place(supervisor, "tcp")
        data, back = os.urandom(512), bytearray(512)
        async with await initiator.connect(initiator.Url(where, ONE)) as before:
            await before.write(5, data)
        await supervisor.reload(settings(target(ONE, disk, worker=2), target(TWO)))
        assert supervisor.owners == {ONE: 2, TWO: 2}
        link = await link_to(place(supervisor, "tcp", 1), ONE)
        assert link.portal == place(supervisor, "tcp", 2)
        await link.session.close()
        async with await initiator.connect(initiator.Url(where, ONE)) as after:
            await after.read_into(5, back)
        assert back == data


async def test_a_portal_takes_the_port_of_one_that_goes() -> None:
    async with supervised() as supervisor:
        port = place(supervisor, "tcp").port
        every = {"every": {"listen": f"iscsi://0.0.0.0:{port}"}}
        await supervisor.reload(settings(target(ONE, portals=["every"]), target(TWO), portal=every))
        await check_data(place(supervisor, "every")._replace(host="127.0.0.1"), ONE)
        link = await link_to(place(supervisor, "every", 2)._replace(host="127.0.0.1"), ONE)
        assert link.portal == ("127.0.0.1", supervisor.own_port("every", 1), "tcp")
        await link.session.close()


async def test_what_cannot_be_had_late_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    disk = lun(backend="file", path=str(path))
    async with supervised(settings(target(ONE, disk), target(TWO))) as supervisor:
        too_small = lun(1, backend="file", path=str(path), size=None, block_size=4096)
        path.write_bytes(bytes(100))
        with pytest.raises(ReloadIncomplete, match=f"LUN 1 of {TWO} is not served: "):
            await supervisor.reload(settings(target(ONE), target(TWO, lun(), too_small)))
        assert [len(each.lun) for each in supervisor.config.target] == [1, 1]
        path.write_bytes(bytes(8192))
        await supervisor.reload(settings(target(ONE), target(TWO, lun(), too_small)))
        luns = await supervisor.ask_all("luns", {})
        assert [view["size"] for view in luns[2]] == [1 << 20, 8192]


async def test_worker_ports_are_those_that_were_given() -> None:
    first = free_range(4)
    ports = f"{first}-{first + 3}"
    async with supervised(settings(worker_ports=ports)) as supervisor:
        used = {supervisor.own_port(name, worker) for name in ("tcp", "rdma") for worker in (1, 2)}
        assert used == set(range(first, first + 4))
        with pytest.raises(UsageError, match="portal more: no port of worker_ports is free"):
            await supervisor.reload(_with_portal(supervisor.config))
        assert "more" not in supervisor.config.portal


def _with_portal(config: Config) -> Config:
    more = settings(portal={"more": {"listen": "iscsi://127.0.0.1:0"}}).portal
    return config.model_copy(update={"portal": {**config.portal, **more}})


def free_range(count: int) -> int:
    """The first of some ports in a row that are free."""
    for first in range(20000, 30000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")
