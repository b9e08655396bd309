"""Tests of initiator.conformance.site: how a case gets to the target, and what it is told when it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from initiator.conformance import Failure
from iser.errors import IserError
from target.scsi import Done, TargetDevice
from tests.initiator.conformance.bad import site_of


async def test_a_session_is_ready_for_the_first_command_of_a_case() -> None:
    async with site_of() as site, site.session() as session:
        assert session.window >= 1
        assert (session.block_size, site.blocks, site.scratch) == (512, 2048, 2048)
        await session.write(4, b"x" * 1024)
        assert await session.read(4, 2) == b"x" * 1024


async def test_a_discovery_session_names_no_target() -> None:
    async with site_of() as site, replace(site, target="iqn.2026-11.test:none").discovery() as session:
        assert session.result.max_cmd_sn


async def test_a_refused_login_is_a_failure_with_its_reason() -> None:
    async with site_of() as site:
        with pytest.raises(Failure, match=r"the login was refused: .*0203"):
            async with replace(site, target="iqn.2026-11.test:none").session():
                pass


async def test_nobody_there_is_no_verdict() -> None:
    async with site_of() as site:
        pass
    with pytest.raises(IserError, match="cannot connect"):
        async with site.connected():
            pass


async def test_a_unit_that_never_gets_ready_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site_of() as site:
        monkeypatch.setattr(TargetDevice, "start", lambda self, task: Done(0x18))
        with pytest.raises(Failure, match="TEST UNIT READY ends in status 0x18"):
            async with site.session():
                pass
