from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest

import initiator
from initiator.establish import MAX_REDIRECTS, open_session, settle_time
from initiator.options import ConnectOptions
from initiator.url import Portal
from iser.errors import ConnectionFailed, LoginError, UsageError
from iser.login import Redirection, TargetAddress, Wishes
from iser.net import busy_poll
from iser.rdma.softiwarp import SoftIwarp
from tests.initiator.puppet import TARGET, Directory, provider, puppets, session_with_puppet


async def test_what_was_negotiated_can_be_seen() -> None:
    async with session_with_puppet(wishes=Wishes(first_burst_length=4096)) as (link, puppet):
        params = link.session.login.params
        assert params.rdma_extensions
        assert params.initial_r2t
        assert params.first_burst_length == 4096
        assert link.session.login.tsih == 1
        assert puppet.login.result.isid[0] == 0x80
        assert link.session.name.startswith("127.0.0.1:")


async def test_only_who_asks_for_it_has_the_loop_look_out_before_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    async with puppets() as stage:
        for wanted, processors, window in ((0, 2, 0.0), (200, 1, 0.0), (200, 2, 200e-6), (100, 2, 200e-6)):
            monkeypatch.setattr("os.sched_getaffinity", lambda _, count=processors: set(range(count)))
            link = await open_session(stage.portal, TARGET, ConnectOptions(busy_poll_us=wanted), provider())
            assert busy_poll().window == window
            await link.datamover.close()


async def test_each_session_has_an_isid_of_its_own() -> None:
    async with puppets() as stage:
        isids = set()
        for _ in range(5):
            link = await open_session(stage.portal, TARGET, ConnectOptions(), provider())
            puppet = await stage.arrived.get()
            isids.add(puppet.login.result.isid)
            await link.datamover.close()
        assert len(isids) == 5


async def test_a_refused_login_says_why_and_leaves_nothing_open() -> None:
    async with puppets() as stage:
        with pytest.raises(LoginError, match="no such target here") as caught:
            await open_session(stage.portal, "iqn.2026-11.test:other", ConnectOptions(), provider())
        assert (caught.value.status_class, caught.value.status_detail) == (2, 3)
        await asyncio.wait_for(stage.everyone[0].ended.wait(), 5)


async def test_a_redirected_login_goes_there() -> None:
    async with puppets() as there:
        address = TargetAddress(there.portal.host, there.portal.port)
        async with puppets(directory=Directory(Redirection(address))) as here:
            link = await open_session(here.portal, TARGET, ConnectOptions(), provider())
            assert link.portal == there.portal
            await link.datamover.close()
            await asyncio.wait_for(here.everyone[0].ended.wait(), 5)


async def test_redirections_have_a_limit() -> None:
    directory = Directory()
    async with puppets(directory=directory) as stage:
        directory.redirect = Redirection(TargetAddress(stage.portal.host, stage.portal.port))
        with pytest.raises(ConnectionFailed, match=f"more than {MAX_REDIRECTS} times"):
            await open_session(stage.portal, TARGET, ConnectOptions(), provider())
        assert len(stage.everyone) == MAX_REDIRECTS + 1


async def test_a_mute_target_is_given_up() -> None:
    async with puppets(mute=True) as stage:
        start = time.monotonic()
        with pytest.raises(ConnectionFailed, match=r"within 0.2 seconds; check that an iSER target runs there"):
            await open_session(stage.portal, TARGET, ConnectOptions(login_timeout=0.2), provider())
        assert time.monotonic() - start < 3
        await asyncio.wait_for(stage.everyone[0].ended.wait(), 5)


async def test_a_listener_that_is_no_iser_target_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        portal = Portal("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(ConnectionFailed, match=str(portal.port)):
            await open_session(portal, TARGET, ConnectOptions(login_timeout=0.2), provider())


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}"):
        await open_session(Portal("127.0.0.1", port), TARGET, ConnectOptions(), provider())


async def test_cancelling_a_login_closes_the_connection() -> None:
    async with puppets(mute=True) as stage:
        task = asyncio.create_task(open_session(stage.portal, TARGET, ConnectOptions(), provider()))
        await stage.arrived.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(stage.everyone[0].ended.wait(), 5)


async def test_a_target_that_vanishes_during_login() -> None:
    async with puppets(mute=True) as stage:
        task = asyncio.create_task(open_session(stage.portal, TARGET, ConnectOptions(), provider()))
        puppet = await stage.arrived.get()
        puppet.datamover.connection_terminate()
        with pytest.raises(initiator.ConnectionLost, match="during login"):
            await task


async def test_options_of_the_rnic_reach_it() -> None:
    with pytest.raises(UsageError, match="segment"):
        await open_session(Portal("127.0.0.1", 1), TARGET, ConnectOptions(segment=1))
    async with puppets() as stage:
        link = await open_session(stage.portal, TARGET, ConnectOptions(crc=True, segment=1024))
        await link.datamover.close()
        assert isinstance(provider(), SoftIwarp)


async def test_a_target_that_is_not_ready_when_it_says_so_gets_a_moment() -> None:
    async with session_with_puppet() as (link, _):
        ready = link.session.login
        assert ready.max_cmd_sn != ready.cmd_sn
        assert settle_time(ready) == 0
        # tgt 1.0.85 answers the last login request with a window of one command.
        assert 0 < settle_time(replace(ready, max_cmd_sn=ready.cmd_sn)) < 0.1
        # LIO of Linux 6.1 names itself in TargetAlias.
        lio = replace(ready, params=replace(ready.params, target_alias="LIO Target"))
        assert 0.2 <= settle_time(lio) <= 0.5
