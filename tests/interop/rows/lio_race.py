"""LIO's race between a login and a write, in a machine of its own, since it may take the kernel down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import pytest

from iser.errors import IserError
from iser.scsi import cdb as cdbs
from iser.scsi.lun import encode_lun
from iser.sg import SgList
from tests.interop.peers.lio import Lio
from tests.interop.recorder import Notes, NotShown, peer_fault
from tests.lab import LabUnavailable, Machine, prepare

_TRIES: Final = 20
_WRITES: Final = 8  # at once
_SIZE: Final = 64 << 10
_WRITE_SECONDS: Final = 5.0  # for one write; they take milliseconds


@pytest.fixture
def throw_away() -> Iterator[Machine]:
    """A machine for this test alone."""
    try:
        build = prepare()
    except LabUnavailable as why:
        pytest.skip(f"no lab: {why}")
    with Machine.boot(build, "race") as machine:
        yield machine


class TestRace:
    """A class, so that it is a piece of work by itself."""

    @peer_fault(
        "LIO 6.1", "a write right behind the login response finds the session without its parameters, and may never end"
    )
    async def test_lio_takes_no_write_right_after_login(
        self, throw_away: Machine, notes: Notes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("initiator.establish.settle_time", lambda login: 0.0)  # without what works round it
        lio = Lio(throw_away)
        await asyncio.to_thread(lio.start)
        for number in range(_TRIES):
            why = await _written(lio)
            if why:
                notes.add(f"login {number + 1}: {why}")
                return
        raise NotShown(f"{_TRIES} writes were fine")


async def _written(lio: Lio) -> str:
    """Log in and write at once; what went wrong, "" if nothing did."""
    try:
        link = await lio.log_in(immediate_data=False)
    except IserError as error:
        return f"the next login failed: {error}"
    try:
        data = SgList.of([bytes(_SIZE)], writable=False)
        writes = [
            link.session.execute(encode_lun(lio.lun), cdbs.write_blocks(0, _SIZE // 512), data_out=data)
            for _ in range(_WRITES)
        ]
        async with asyncio.timeout(_WRITE_SECONDS):
            results = await asyncio.gather(*writes)
    except TimeoutError:
        return f"the write did not end within {_WRITE_SECONDS:g} s"
    except IserError as error:
        return str(error)
    finally:
        with contextlib.suppress(IserError, TimeoutError):
            async with asyncio.timeout(_WRITE_SECONDS):
                await link.session.close()
    bad = [result.status for result in results if result.status]
    return f"writes end in status {bad[0]:#04x}" if bad else ""
