"""Tests of target.reload, each on a server that serves: what is touched, and what is not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from iser.errors import BackendError, ConnectionFailed, LoginError, UsageError
from iser.login import InitiatorLogin, InitiatorLoginConfig
from iser.pdu import ScsiResponse
from iser.scsi.cdb import read_blocks, read_capacity_16, report_luns, write_blocks
from iser.scsi.lun import parse_lun_list
from target import reload as reload_module
from target.config import Config
from target.reload import ReloadIncomplete
from target.server import TargetServer
from tests.target.peer import TARGET, Peer, config, disk, served, serving, until

OTHER = TARGET + "-other"
ISIDS = [bytes.fromhex(f"80cafe00010{number}") for number in range(4)]
TWO = (*disk(luns=2), *disk(name=OTHER))
MEMORY = {"backend": "memory", "size": "1M"}
LUN_GONE = (5, 0x25, 0x00)
LUNS_CHANGED = (6, 0x3F, 0x0E)
POWER_ON = (6, 0x29, 0x00)


def with_luns(*luns: dict[str, Any], **more: Any) -> Config:
    """One target with these LUNs."""
    return config(target=[{"name": TARGET, "lun": list(luns)} | more])


async def sense(peer: Peer, lun: int = 0) -> tuple[int, int, int] | None:
    """What TEST UNIT READY says."""
    response, data = await peer.command(bytes(6), lun=lun << 48)
    return (data[2] & 15, data[12], data[13]) if response.status else None


async def senses(peer: Peer, lun: int = 0) -> list[tuple[int, int, int]]:
    """All that TEST UNIT READY says until it is satisfied."""
    found: list[tuple[int, int, int]] = []
    while (code := await sense(peer, lun)) is not None and len(found) < 5:
        found.append(code)
    return found


async def luns(peer: Peer) -> list[int]:
    data = bytearray(256)
    response, _ = await peer.command(report_luns(256), read=data)
    return list(parse_lun_list(bytes(data[: 256 - response.residual])))


async def blocks(peer: Peer) -> int:
    data = bytearray(32)
    await peer.command(read_capacity_16(), read=data)
    return int.from_bytes(data[:8], "big") + 1


async def write(peer: Peer, data: bytes, lun: int = 0) -> None:
    response, _ = await peer.command(write_blocks(0, len(data) // 512), write=data, lun=lun << 48)
    assert response.status == 0


async def read(peer: Peer, lun: int = 0) -> bytes:
    data = bytearray(512)
    response, _ = await peer.command(read_blocks(0, 1), read=data, lun=lun << 48)
    assert response.status == 0
    return bytes(data)


@asynccontextmanager
async def busy(port: int, **who: Any) -> AsyncIterator[Peer]:
    """A session whose reads and writes go on meanwhile; fails if one of them does."""
    async with served(port, **who) as peer:
        done = 0
        stop = False

        async def run() -> None:
            nonlocal done
            while not stop:
                data = done.to_bytes(8, "big") * 64
                await write(peer, data)
                assert await read(peer) == data
                done += 1

        task = asyncio.create_task(run())
        await until(lambda: done)
        yield peer
        before = done
        await until(lambda: done > before + 1 or task.done())
        stop = True
        await task
        assert done > before + 1 > 1


async def test_a_session_that_nothing_changes_for_goes_on_with_its_io() -> None:
    async with serving(config(target=TWO)) as (server, port):
        async with busy(port, target_name=OTHER, isid=ISIDS[1]) as _, served(port) as peer:
            changes = await server.reload(config(target=(*disk(luns=3), *disk(name=OTHER))))
            assert [change.what for change in changes] == [f"LUN 2 of {TARGET}"]
            assert await sense(peer) == LUNS_CHANGED
            assert await luns(peer) == [0, 1, 2]
            await server.reload(config(target=disk(name=OTHER)))  # the whole target goes
            assert isinstance(await peer.over(), EOFError)
        assert list(server.registry.targets) == [OTHER]


async def test_a_lun_comes_and_goes() -> None:
    async with serving(config()) as (server, port), served(port) as peer:
        await write(peer, b"kept" * 128)
        await server.reload(config(target=disk(luns=2)))
        assert await senses(peer) == [LUNS_CHANGED]
        assert await senses(peer, 1) == [POWER_ON, LUNS_CHANGED]
        await write(peer, b"more" * 128, lun=1)
        assert await read(peer) == b"kept" * 128
        await server.reload(config())
        assert await luns(peer) == [0]  # who asks by itself needs not be told
        assert await senses(peer) == []
        assert await sense(peer, 1) == LUN_GONE
        assert await read(peer) == b"kept" * 128


async def test_a_lun_that_goes_answers_what_it_runs() -> None:
    slow = MEMORY | {"id": 1, "faults": [{"on": "write", "action": "delay", "seconds": 0.2}]}
    async with serving(with_luns(MEMORY | {"id": 0}, slow)) as (server, port), served(port) as peer:
        assert await sense(peer, 1) == POWER_ON
        itt = peer.send_command(write_blocks(0, 1), write=bytes(512), lun=1 << 48)
        await asyncio.sleep(0.05)
        reloading = asyncio.create_task(server.reload(config()))
        response = await peer.expect(ScsiResponse)
        assert (response.itt, response.status) == (itt, 0)
        await reloading
        assert await sense(peer, 1) == LUN_GONE


async def test_a_lun_does_not_wait_forever_for_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "LUN_DRAIN_TIMEOUT", 0.05)
    slow = MEMORY | {"id": 1, "faults": [{"on": "write", "action": "delay", "seconds": 1.0}]}
    async with serving(with_luns(MEMORY | {"id": 0}, slow)) as (server, port), served(port) as peer:
        assert await sense(peer, 1) == POWER_ON
        peer.send_command(write_blocks(0, 1), write=bytes(512), lun=1 << 48)
        await asyncio.sleep(0.02)
        await asyncio.wait_for(server.reload(config()), 0.8)
        assert await sense(peer) == LUNS_CHANGED


async def test_a_file_is_resized_while_it_is_served_and_opened_anew_for_all_else(tmp_path: Path) -> None:
    disk0 = {"id": 0, "backend": "file", "path": str(tmp_path / "disk"), "size": "1M"}
    async with serving(with_luns(disk0)) as (server, port), served(port) as peer:
        await write(peer, b"kept" * 128)
        await server.reload(with_luns(disk0 | {"size": "2M"}))
        assert await senses(peer) == [(6, 0x2A, 0x09)]
        assert await blocks(peer) == 4096
        await server.reload(with_luns(disk0 | {"size": "2M", "product": "OTHER"}))
        assert await senses(peer) == [POWER_ON, LUNS_CHANGED]
        assert await read(peer) == b"kept" * 128


async def test_what_cannot_be_had_changes_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        portals = {
            "p": {"listen": "iser://127.0.0.1:0"},
            "q": {"listen": f"iser://127.0.0.1:{taken.getsockname()[1]}"},
        }
        first = MEMORY | {"id": 0}
        file = {"id": 1, "backend": "file", "path": str(tmp_path / "disk"), "size": "1M"}
        async with serving(config()) as (server, port):
            before = server.config
            async with busy(port):
                with pytest.raises(ConnectionFailed, match="in use"):
                    await server.reload(config(portal=portals, target=[{"name": TARGET, "lun": [first, file]}]))
                with pytest.raises(BackendError):
                    await server.reload(with_luns(first, file | {"path": str(tmp_path)}))
                with pytest.raises(UsageError, match="NO_SUCH_SECRET"):
                    await server.reload(config(chap={"u": {"secret_env": "NO_SUCH_SECRET"}}))
            assert server.config is before
            await server.reload(with_luns(first, file))  # nothing of the first try holds the file


async def test_what_fails_late_is_told_and_tried_again(tmp_path: Path) -> None:
    disk0 = {"id": 0, "backend": "file", "path": str(tmp_path / "disk"), "size": "1M", "read_only": False}
    other = MEMORY | {"id": 1}
    async with serving(with_luns(disk0, other)) as (server, port), served(port) as peer:
        wrong = with_luns(disk0 | {"read_only": True, "size": "4M"}, other | {"id": 2})
        with pytest.raises(ReloadIncomplete, match=r"LUN 0 of .* is not served"):
            await server.reload(wrong)
        assert await luns(peer) == [2]
        right = with_luns(disk0, other | {"id": 2})
        assert [change.verb for change in await server.reload(right)] == ["add"]
        assert await luns(peer) == [0, 2]


async def test_a_size_that_cannot_be_stays_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    disk0 = {"id": 0, "backend": "file", "path": str(tmp_path / "disk"), "size": 4096, "read_only": True}
    async with serving(with_luns(disk0)) as (server, port), served(port) as peer:
        for _ in range(2):
            with pytest.raises(ReloadIncomplete, match="keeps its size"):
                await server.reload(with_luns(disk0 | {"size": 8192}))
        assert await senses(peer) == []
        assert await blocks(peer) == 8


async def test_portals_come_and_go() -> None:
    one, two = {"listen": "iser://127.0.0.1:0"}, {"listen": "iser://127.0.0.1:0", "group": 2}
    async with serving(config()) as (server, port), served(port) as stays:
        await server.reload(config(portal={"p": one, "q": two}))
        assert server.addresses[0][1] == port
        second = server.addresses[1][1]
        async with served(second, isid=ISIDS[1]) as goes:
            assert goes.login.params.target_portal_group_tag == 2
            await server.reload(config(portal={"p": one}))
            assert isinstance(await goes.over(), EOFError)
        with pytest.raises(ConnectionFailed):
            await Peer().connect(second)
        assert await senses(stays) == [(6, 0x3F, 3)]  # the pages of INQUIRY that list the target's ports changed


async def test_a_portal_is_renamed_and_gets_another_group() -> None:
    async with serving(config()) as (server, port), served(port) as peer:
        listen = f"iser://127.0.0.1:{port}"
        await server.reload(config(portal={"fixed": {"listen": listen}}))
        assert isinstance(await peer.over(), EOFError)
        async with served(port, isid=ISIDS[1]) as again:
            await server.reload(config(portal={"fixed": {"listen": listen, "group": 7}}))
            assert isinstance(await again.over(), EOFError)
        async with served(port, isid=ISIDS[2]) as last:
            assert last.login.params.target_portal_group_tag == 7


async def test_a_target_leaves_a_portal() -> None:
    portals = {name: {"listen": "iser://127.0.0.1:0"} for name in ("p", "q")}
    target = disk()[0]
    async with serving(config(portal=portals)) as (server, port):
        other = server.addresses[1][1]
        async with served(port) as goes, served(other, isid=ISIDS[1]) as stays:
            await server.reload(config(portal=portals, target=[target | {"portals": ["q"]}]))
            assert isinstance(await goes.over(), EOFError)
            assert await senses(stays) == []


async def test_rules_end_whom_they_keep_out_and_tell_who_sees_other_luns() -> None:
    target = disk(luns=2)[0]

    def rules(*acl: dict[str, Any]) -> Config:
        return config(target=[target | {"acl": acl}])

    good, bad = "iqn.2026-11.test:good", "iqn.2026-11.test:bad"
    async with (
        serving(rules({"initiator": "*"})) as (server, port),
        served(port, initiator_name=good) as stays,
        served(port, initiator_name=bad, isid=ISIDS[1]) as goes,
    ):
        await write(goes, b"one " * 128)
        assert await sense(stays, 1) == POWER_ON
        await write(stays, b"two " * 128, lun=1)
        await server.reload(rules({"initiator": bad, "allow": False}, {"initiator": "*"}))
        assert isinstance(await goes.over(), EOFError)
        assert await senses(stays) == []
        await server.reload(rules({"initiator": good, "luns": {"0": 1}}))
        assert await luns(stays) == [0]
        assert await read(stays) == b"two " * 128
        await server.reload(rules({"initiator": good, "luns": {"0": 0, "5": 1}}))
        assert await senses(stays) == [POWER_ON, LUNS_CHANGED]
        assert await read(stays) == b"one " * 128
        assert await senses(stays, 5) == [LUNS_CHANGED]
        late = Peer()
        await late.connect(port)
        with pytest.raises(LoginError):
            await late.log_in(initiator_name=bad, isid=ISIDS[2])
        await late.datamover.close()


async def test_who_had_no_proof_to_give_ends_when_one_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALICE_SECRET", "a secret of alice's")
    acl = [{"initiator": "*", "chap": ["alice"]}]
    guarded = config(target=[disk()[0] | {"acl": acl}], chap={"alice": {"secret_env": "ALICE_SECRET"}})
    async with serving(config()) as (server, port), served(port) as peer:
        await server.reload(guarded)
        assert isinstance(await peer.over(), EOFError)


async def test_limits_are_those_of_new_sessions() -> None:
    async with serving(config()) as (server, port), served(port) as old:
        await server.reload(config(limits={"queue_depth": 4, "max_sessions": 2}))
        async with served(port, isid=ISIDS[1]) as new:
            assert new.login.max_cmd_sn - new.login.cmd_sn + 1 <= 4
            crowd = Peer()
            await crowd.connect(port)
            with pytest.raises(LoginError):
                await crowd.log_in(isid=ISIDS[2])
            await crowd.datamover.close()
        assert await senses(old) == []


async def test_a_login_under_way_begins_again() -> None:
    async with serving(config(target=TWO)) as (server, port), served(port, target_name=OTHER, isid=ISIDS[1]) as stays:
        peer = Peer()
        await peer.connect(port)
        login = InitiatorLogin(
            InitiatorLoginConfig(
                initiator_name="iqn.2026-11.test:i", target_name=TARGET, isid=ISIDS[2], security_stage=True
            )
        )
        peer.datamover.send_control(login.start())
        assert login.receive(await peer.receive()) is not None  # there is more to come
        await server.reload(config(target=disk(name=OTHER)))
        assert isinstance(await peer.over(), BaseException)
        await peer.datamover.close()
        assert await senses(stays) == []


async def test_targets_are_renamed_with_their_file(tmp_path: Path) -> None:
    lun = {"id": 0, "backend": "file", "path": str(tmp_path / "disk"), "size": "1M"}
    async with serving(config(target=[{"name": TARGET, "lun": [lun]}])) as (server, port):
        async with served(port) as peer:
            await write(peer, b"kept" * 128)
            await server.reload(config(target=[{"name": OTHER, "lun": [lun]}]))
            assert isinstance(await peer.over(), EOFError)
        async with served(port, target_name=OTHER) as peer:
            assert await read(peer) == b"kept" * 128


async def test_a_server_that_ends_takes_nothing_new() -> None:
    server = await TargetServer.start(config())
    closing = asyncio.create_task(server.close())
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="shutting down"):
        await server.reload(config())
    await closing


async def test_the_same_again_is_nothing() -> None:
    async with serving(config()) as (server, port), served(port) as peer:
        assert await server.reload(config()) == []
        assert await senses(peer) == []
