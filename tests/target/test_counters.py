"""Tests of target.counters, by themselves and on a target that serves."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns

import pytest

from iser.errors import LoginError
from iser.scsi import cdb
from iser.scsi.const import Status
from iser.scsi.lun import encode_lun
from target.counters import LunCounters, LunKey
from target.server import TargetServer
from tests.target.peer import TARGET, Peer, config, disk, served, serving, until


def total(server: TargetServer, lun: int | None = 0) -> LunCounters:
    return server.lun_counters()[LunKey(TARGET, lun, "iser")]


def test_latency_is_kept_by_its_magnitude() -> None:
    counters = LunCounters()
    counters.finished(perf_counter_ns() - 3_000_000, Status.GOOD, 512, write=False)
    assert counters.latency[22] == 1  # 2.1 to 4.2 ms
    assert 3_000_000 <= counters.nanoseconds < 4_000_000


def test_a_copy_is_its_own() -> None:
    counters = LunCounters()
    counters.finished(perf_counter_ns(), Status.BUSY, 0, write=True)
    copy = counters.copy()
    copy.add(counters)
    assert (copy.commands, copy.errors, sum(copy.latency)) == (2, {Status.BUSY: 2}, 2)
    assert (counters.commands, counters.errors, sum(counters.latency)) == (1, {Status.BUSY: 1}, 1)


async def test_commands_bytes_and_errors_are_counted_and_outlive_their_session() -> None:
    async with serving(config(target=disk(luns=2))) as (server, port):
        async with served(port) as peer:  # which took a unit attention
            await peer.command(cdb.write_blocks(0, 3), write=bytes(1536))
            await peer.command(cdb.read_blocks(0, 2), read=bytearray(1024))
            await peer.command(cdb.read_blocks(1 << 20, 1), read=bytearray(512))  # beyond the end
            counters = total(server)
            assert (counters.commands, counters.read_bytes, counters.written_bytes) == (4, 1024, 1536)
            assert counters.errors == {Status.CHECK_CONDITION: 2}
            assert sum(counters.latency) == 4
        await until(lambda: server.sessions == 0 and not server.connections)
        assert (server.connections, total(server).commands) == ([], 4)


async def test_both_forms_of_a_lun_are_one_and_luns_that_are_not_there_are_one() -> None:
    async with serving() as (server, port), served(port) as peer:
        await peer.command(bytes(6), lun=1 << 62)  # LUN 0 in flat space addressing
        for lun in range(1, 200):
            await peer.command(bytes(6), lun=encode_lun(lun))
        assert total(server).commands == 2
        assert total(server, None).commands == 199
        assert len(server.lun_counters()) == 2


async def test_a_lun_that_a_rule_renames_is_counted_under_its_own_number() -> None:
    target = disk(luns=3)
    target[0]["acl"] = ({"initiator": "*", "luns": {"0": 2}},)
    async with serving(config(target=target)) as (server, port), served(port):
        assert list(server.lun_counters()) == [LunKey(TARGET, 2, "iser")]


async def test_after_a_reload_a_lun_counts_as_what_it_has_become() -> None:
    target = disk(luns=3)
    rule = {"initiator": "*", "luns": {"0": 2}}
    portal = {"p": {"listen": "iser://127.0.0.1:0"}}
    target[0]["acl"] = (rule,)
    async with serving(config(portal=portal, target=target)) as (server, port), served(port) as peer:
        target[0]["acl"] = (rule | {"luns": {"0": 1}},)
        await server.reload(config(portal=portal, target=target))
        await peer.command(bytes(6))
        await peer.command(bytes(6))
        counted = {key.lun: counters.commands for key, counters in server.lun_counters().items()}
        assert counted == {2: 1, 1: 2}


async def test_an_aborted_command_is_counted_as_that() -> None:
    slow = {"on": "read", "action": "delay", "seconds": 0.2}
    async with serving(config(target=disk(slow))) as (server, port):
        async with served(port) as peer:
            peer.send_command(cdb.read_blocks(0, 1), read=bytearray(512))
            await asyncio.sleep(0.05)
        await until(lambda: not server.connections)
        assert (total(server).aborted, total(server).commands) == (1, 1)


async def test_the_window_is_told() -> None:
    slow = {"on": "read", "action": "delay", "seconds": 0.1}
    async with serving(config(target=disk(slow), limits={"queue_depth": 4})) as (server, port), served(port) as peer:
        session = server.connections[0].session
        assert session
        assert session.window == (4, 4)
        peer.send_command(cdb.read_blocks(0, 1), read=bytearray(512))
        await until(lambda: session.tasks)
        assert session.window == (4, 3)
        await peer.receive()


async def test_logins_are_counted_those_refused_by_why() -> None:
    async with serving(config(limits={"max_logins": 1, "login_timeout": 0.2})) as (server, port):
        counters = server.registry.counters
        async with served(port):
            assert counters.logins == 1
        wrong = Peer()
        await wrong.connect(port)
        with pytest.raises(LoginError):
            await wrong.log_in(target_name="iqn.2026-11.test:other")
        await wrong.datamover.close()
        silent = [Peer(), Peer()]
        for peer in silent:
            await peer.connect(port)
        await until(lambda: counters.refused.total() == 3)
        assert counters.refused == {"0203": 1, "crowded": 1, "timeout": 1}
        assert counters.logins == 1
        for peer in silent:
            await peer.datamover.close()
