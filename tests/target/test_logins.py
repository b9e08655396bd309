"""Access control end to end, over both transports: who gets in, what he sees, and what the log says of it."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

import initiator
from initiator import Portal, Url
from iser.errors import ConnectionFailed, ConnectionLost, IserError, LoginError, UsageError
from iser.scsi.lun import parse_lun_list
from target.server import TargetServer
from tests.target.peer import TARGET, Peer, config, disk, leave_nothing, served, serving, until

ALICE, BOB, US = "alice's own secret", "bob's own secret", "our very own secret"
GOOD, BAD = "iqn.2026-11.test:good", "iqn.2026-11.test:bad"
SCHEMES = ["iser", "iscsi"]


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ALICE": ALICE, "BOB": BOB, "US": US}.items():
        monkeypatch.setenv(name, value)


CHAP = {"alice": {"secret_env": "ALICE"}, "bob": {"secret_env": "BOB"}, "us": {"secret_env": "US", "user": "disk"}}


def tables(scheme: str, *acl: dict[str, Any], luns: int = 1, **more: Any) -> dict[str, Any]:
    (target,) = disk(luns=luns)
    portals = {"main": {"listen": f"{scheme}://127.0.0.1:0", "group": 3}}
    return {"portal": portals, "target": (target | {"acl": acl},), "chap": CHAP} | more


def place(server: TargetServer) -> Portal:
    (portal,) = server.portals
    return Portal(portal.host, portal.port, portal.transport)


async def connect(server: TargetServer, lun: int = 0, **options: Any) -> initiator.Lun:
    return await initiator.connect(Url(place(server), TARGET, lun), **({"initiator_name": GOOD} | options))


async def refused(server: TargetServer, status: int, **options: Any) -> None:
    with pytest.raises(LoginError) as caught:
        await connect(server, **options)
    assert caught.value.status_class << 8 | caught.value.status_detail == status


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_names_decide_who_gets_in(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iser.audit")
    async with serving(config(**tables(scheme, {"initiator": GOOD}))) as (server, _):
        async with await connect(server) as lun:
            await lun.write(0, bytes(512))
            assert lun.session.login.params.target_portal_group_tag == 3
        await refused(server, 0x0202, initiator_name=BAD)
    lines = [record.getMessage() for record in caplog.records if record.name == "iser.audit"]
    assert len(lines) == 2
    assert lines[0].startswith(f"allowed initiator={GOOD} address=127.0.0.1:")
    assert lines[0].endswith(f"target={TARGET} as=- rule=target[0].acl[0] {GOOD}")
    assert lines[1].startswith(f"denied initiator={BAD} address=127.0.0.1:")
    assert f"no rule of {TARGET} lets {BAD} in" in lines[1]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("algorithm", ["", "md5", "sha1", "sha256", "sha3-256"])
async def test_chap_both_ways(scheme: str, algorithm: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rule = {"initiator": "*", "chap": ["alice", "bob"], "mutual": "us"}
    async with serving(config(**tables(scheme, rule))) as (server, _):
        options: dict[str, Any] = {"user": "alice", "password": ALICE, "chap": algorithm}
        both = options | {"target_user": "disk", "target_password": US}
        for way in (options, both, both | {"target_user": "disk", "user": "bob", "password": BOB}):
            async with await connect(server, **way) as lun:
                assert await lun.read(0, 1) == bytes(512)
        await refused(server, 0x0201)
        await refused(server, 0x0201, user="alice", password=BOB)
        await refused(server, 0x0201, user="carol", password=ALICE)
        # The target is told nothing of what it could not prove, so this end refuses.
        await refused(server, 0x0201, **(both | {"target_password": "not the target's"}))
        await refused(server, 0x0201, **(both | {"target_user": "another"}))
    assert "allowed" in caplog.text
    assert " as=bob rule=" in caplog.text
    assert "the initiator did not prove to be CHAP user 'carol'" in caplog.text
    for secret in (ALICE, BOB, US):
        assert secret not in caplog.text
        assert secret.encode().hex() not in caplog.text


async def test_over_iser_a_target_that_is_not_believed_ends_the_login_too() -> None:
    async with serving(config(**tables("iser", {"initiator": "*", "chap": ["alice"], "mutual": "us"}))) as (server, _):
        both = {"user": "alice", "password": ALICE, "target_user": "disk", "target_password": "not the target's"}
        await refused(server, 0x0201, **both)
        assert server.registry.counters.refused == {"0200": 1}


async def test_a_target_that_should_prove_itself_and_cannot_is_refused() -> None:
    async with serving(config(**tables("iscsi", {"initiator": "*", "chap": ["alice"]}))) as (server, _):
        options: dict[str, Any] = {"user": "alice", "password": ALICE, "target_user": "disk", "target_password": US}
        await refused(server, 0x0201, **options)


async def test_the_algorithms_are_the_configured_ones() -> None:
    strict = tables("iscsi", {"initiator": "*", "chap": ["alice"]}, access={"algorithms": ["sha256"]})
    async with serving(config(**strict)) as (server, _):
        await refused(server, 0x0201, user="alice", password=ALICE, chap="md5,sha1")
        async with await connect(server, user="alice", password=ALICE, chap="md5,sha256"):
            pass


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_discovery_has_its_own_rule_and_hides_what_would_not_let_in(scheme: str) -> None:
    rules = tables(scheme, {"initiator": GOOD}, discovery={"initiators": ["iqn.2026-11.test:*"], "chap": ["alice"]})
    async with serving(config(**rules)) as (server, _):
        proof = {"user": "alice", "password": ALICE}
        (record,) = await initiator.discover(place(server), initiator_name=GOOD, **proof)
        assert [address.tpgt for address in record.addresses] == [3]
        assert await initiator.discover(place(server), initiator_name=BAD, **proof) == []
        for options, status in (({}, "0201"), ({"initiator_name": "iqn.2026-11.other:x"} | proof, "0202")):
            with pytest.raises(LoginError, match=status):
                await initiator.discover(place(server), **({"initiator_name": GOOD} | options))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_lun_maps(scheme: str) -> None:
    rules: list[dict[str, Any]] = [{"initiator": GOOD, "luns": {"0": 2, "5": 1}}, {"initiator": BAD, "luns": [1]}]
    async with serving(config(**tables(scheme, *rules, luns=3))) as (server, _):
        async with (
            await connect(server) as first,
            await connect(server, 5) as second,
            await connect(server, 1, initiator_name=BAD) as other,
        ):
            await first.write(0, b"2" * 512)
            await second.write(0, b"1" * 512)
            assert await other.read(0, 1) == b"1" * 512
            report = bytearray(64)
            await first.execute(bytes((0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0)), data_in=report)
            assert list(parse_lun_list(bytes(report))) == [0, 5]
            # A reset by one name of the unit reaches those that know it by another.
            await second.session.lun_reset(5)
            with pytest.raises(IserError):
                await other.execute(bytes(6))
            await first.execute(bytes(6))
        for name, lun in ((GOOD, 1), (GOOD, 2), (BAD, 0)):
            with pytest.raises(ConnectionFailed, match=f"no LUN {lun}"):
                await connect(server, lun, initiator_name=name)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_target_is_only_at_its_portals(scheme: str) -> None:
    base = tables(scheme)
    base["portal"] = {name: {"listen": f"{scheme}://127.0.0.1:0"} for name in ("here", "there")}
    (target,) = base["target"]
    base["target"] = (target | {"portals": ["here"]},)
    async with serving(config(**base)) as (server, _):
        here, there = (Portal(portal.host, portal.port, portal.transport) for portal in server.portals)
        async with await initiator.connect(Url(here, TARGET)):
            pass
        with pytest.raises(LoginError, match="0203"):
            await initiator.connect(Url(there, TARGET))
        (record,) = await initiator.discover(there)
        assert [address.port for address in record.addresses] == [here.port]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_sessions_of_one_initiator_have_a_limit(scheme: str) -> None:
    limited = tables(scheme, limits={"max_sessions_per_initiator": 2})
    async with serving(config(**limited)) as (server, _):
        one, two = await connect(server), await connect(server)
        await refused(server, 0x0302)
        async with await connect(server, initiator_name=BAD):
            pass
        await one.close()
        await until(lambda: server.sessions == 1)
        three = await connect(server)
        await two.close()
        await three.close()


async def test_a_flood_of_logins_that_go_nowhere_leaves_sessions_and_honest_logins_alone() -> None:
    flooded = tables("iscsi", limits={"max_logins": 8, "max_sessions": 4, "login_timeout": 30.0})
    async with serving(config(**flooded)) as (server, port):
        flood: list[socket.socket] = []
        async with await connect(server) as lun:
            stop = asyncio.Event()

            async def attack() -> None:
                while not stop.is_set():
                    for _ in range(20):
                        flood.append(socket.create_connection(("127.0.0.1", port), 5, ("127.0.0.2", 0)))
                        flood[-1].send(b"\x43")  # the first byte of a login
                    await asyncio.sleep(0.005)

            attacker = asyncio.create_task(attack())
            try:
                number = 0
                while len(flood) < 500:
                    await lun.write(number % 64, bytes((number % 64,)) * 512)
                    assert await lun.read(number % 64, 1) == bytes((number % 64,)) * 512
                    number += 1
                for _ in range(10):
                    async with await connect(server, initiator_name=BAD):
                        pass
            finally:
                stop.set()  # before the target closes, which would only hide what went wrong
                await attacker
                for sock in flood:
                    sock.close()
            assert await lun.read(0, 1) == bytes(512)


async def test_who_has_most_logins_that_go_nowhere_makes_room() -> None:
    # Two of one host and one of another, though the latter is the oldest: the first of the two goes.
    async with serving(config(**tables("iscsi", limits={"max_logins": 3}))) as (server, port):
        hosts = ("127.0.0.3", "127.0.0.2", "127.0.0.2")
        waiting = [socket.create_connection(("127.0.0.1", port), 5, (host, 0)) for host in hosts]
        for sock in waiting:
            sock.setblocking(False)
        async with await connect(server):
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(waiting[1], 1), 10) == b""
            for sock in (waiting[0], waiting[2]):
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
        for sock in waiting:
            sock.close()


async def test_the_oldest_login_makes_room() -> None:
    # The peer that has logged in does not count.
    async with serving(config(limits={"max_logins": 2})) as (_, port), served(port):
        peers = [Peer() for _ in range(3)]
        for peer in peers:
            await peer.connect(port)
        assert isinstance(await peers[0].over(), ConnectionLost | EOFError)
        await peers[1].log_in(isid=b"abcdef")
        for peer in peers:
            await peer.datamover.close()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_login_has_so_much_time(scheme: str) -> None:
    async with serving(config(**tables(scheme, limits={"login_timeout": 0.25}))) as (server, port):
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.setblocking(False)
            if scheme == "iscsi":
                assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(slow, 1), 10) == b""
        async with await connect(server):
            await asyncio.sleep(0.35)  # only a login has


async def test_a_secret_that_is_missing_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALICE")
    with pytest.raises(UsageError, match="variable ALICE is not set"):
        await TargetServer.start(config(**tables("iscsi")))
    await leave_nothing()
