"""Runs in the guest: ``python -m tests.interop.guest_verbs URL``, our initiator over verbs with any target.

Prints a line of JSON for each feature, ``[feature, verdict, note]`` with a verdict of pass, fail or "not offered": the
interpreter starts slowly under emulation, so one process does them all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from initiator.establish import open_session, send_targets
from initiator.lun import Lun
from initiator.url import Url
from iser.datamover import IserInitiator
from iser.errors import ConnectionLost, IserError
from iser.pdu import TaskManagementFunction, TaskManagementResponseCode
from iser.rdma.api import DeviceCap
from iser.scsi.lun import encode_lun
from iser.sg import SgClass
from tests.interop.lists import check_blocks, check_lists
from tests.interop.matrix import Feature

__all__ = ["main"]

DEPTH: Final = 32
SIZES: Final = (512, 4096, 64 << 10, 1 << 20, 8 << 20)
_FEATURE_SECONDS: Final = 60.0


class _NotOffered(Exception):  # noqa: N818 - an outcome, not an error; the guest has no pytest for the recorder's own
    """The feature does not exist here; the message says who says so."""


class Guest:
    """The features.  ``settle`` is what the target needs between a login and the first command, in seconds."""

    def __init__(self, url: Url, settle: float) -> None:
        self.url = url
        self._settle = settle

    async def connect(self, **options: object) -> Lun:
        """A LUN, ready for I/O."""
        settings = self.url.connect_options.with_changes({"provider": "verbs", **options})
        link = await open_session(self.url.portal, self.url.target, settings)
        await asyncio.sleep(self._settle)
        return await Lun.open(link, self.url.lun, settings)

    async def discovery(self) -> str:
        settings = self.url.connect_options.with_changes({"provider": "verbs"})
        link = await open_session(self.url.portal, "", settings)
        try:
            await asyncio.sleep(self._settle)
            names = [record.name for record in await send_targets(link.session, 20.0)]
        finally:
            await link.session.close()
        assert self.url.target in names
        return ""

    async def login(self) -> str:
        async with await self.connect() as lun:
            params = lun.session.login.params
            return f"ImmediateData={params.immediate_data}, InitialR2T={params.initial_r2t}"

    async def capacity(self) -> str:
        async with await self.connect() as lun:
            assert lun.capacity.size > 0
        return ""

    async def lists(self, kind: SgClass) -> str:
        async with await self.connect(immediate_data=False) as lun:
            before = lun.counters.copy()
            await check_lists(lun, kind, (16 << 10, 128 << 10), seed=7)
            counters = lun.counters.since(before)
            assert counters.stags == counters.commands, "a command took more than one STag"
            assert lun.link.datamover.live_keys == 0
            return ", ".join(f"{reason}: {count}" for reason, count in counters.fallbacks.items())

    async def immediate_data(self) -> str:
        async with await self.connect(immediate_data=True) as lun:
            if not lun.session.login.params.immediate_data:
                raise _NotOffered("the peer answers ImmediateData=No at login")
            await check_lists(lun, SgClass.BYTE_GAPPY, (8192,), seed=8)
        return ""

    async def sizes(self) -> str:
        async with await self.connect(immediate_data=False) as lun:
            for size in SIZES:
                await check_blocks(lun, size, 1000, seed=size)
            return f"commands of up to {lun.max_transfer >> 10} KiB"

    async def queue_depth(self) -> str:
        async with await self.connect(queue_depth=DEPTH) as lun:
            await asyncio.gather(*(check_blocks(lun, 4096 << n % 5, n * 128, seed=n) for n in range(4 * DEPTH)))
        return ""

    async def remote_invalidation(self) -> str:
        async with await self.connect() as lun:
            datamover = lun.link.datamover
            assert isinstance(datamover, IserInitiator)
            device = datamover.device
            if not device.attributes.caps & DeviceCap.MEM_MGT_EXTENSIONS:
                raise _NotOffered(
                    f"{device.name} cannot let a peer invalidate a process's keys: our side asks for none"
                )
        return ""

    async def nop(self) -> str:
        async with await self.connect() as lun:
            return f"answers with {len(await lun.session.nop(b'twenty bytes of ping'))} bytes of data"

    async def lun_reset(self) -> str:
        async with await self.connect() as lun:
            load = [asyncio.ensure_future(lun.read(n * 128, 128)) for n in range(DEPTH)]
            await asyncio.sleep(0)
            function = TaskManagementFunction.LOGICAL_UNIT_RESET
            code = await lun.session.manage_tasks(function, encode_lun(self.url.lun))
            outcomes = await asyncio.gather(*load, return_exceptions=True)
            assert code == TaskManagementResponseCode.FUNCTION_COMPLETE, code
            ended = sum(isinstance(outcome, BaseException) for outcome in outcomes)
        await self._works_again()
        return f"ended {ended} of {DEPTH} reads"

    async def logout(self) -> str:
        for number in range(5):
            lun = await self.connect()
            await check_blocks(lun, 4096, 0, seed=number)
            await lun.close()
        return ""

    async def reconnect(self) -> str:
        lun = await self.connect(immediate_data=False)
        load = [asyncio.ensure_future(_forever(lun, number)) for number in range(8)]
        await asyncio.sleep(0.5)
        lun.link.datamover.abort(ConnectionLost("ended by the test"))
        outcomes = await asyncio.gather(*load, return_exceptions=True)
        assert all(isinstance(outcome, IserError) for outcome in outcomes), outcomes
        await lun.close()
        await self._works_again()
        return ""

    async def _works_again(self) -> None:
        async with await self.connect() as lun:
            await check_blocks(lun, 64 << 10, 0, seed=14)

    def features(self) -> list[tuple[Feature, Callable[[], Awaitable[str]]]]:
        """All, in order."""
        return [
            (Feature.DISCOVERY, self.discovery),
            (Feature.LOGIN, self.login),
            (Feature.CAPACITY, self.capacity),
            *((Feature(f"{kind.value} lists"), partial(self.lists, kind)) for kind in SgClass),
            (Feature.IMMEDIATE_DATA, self.immediate_data),
            (Feature.SIZES, self.sizes),
            (Feature.QUEUE_DEPTH, self.queue_depth),
            (Feature.REMOTE_INVALIDATION, self.remote_invalidation),
            (Feature.NOP, self.nop),
            (Feature.LUN_RESET, self.lun_reset),
            (Feature.LOGOUT, self.logout),
            (Feature.RECONNECT, self.reconnect),
        ]


async def _forever(lun: Lun, number: int) -> None:
    while True:
        await lun.read(number * 128, 128)


async def _run(url: Url, settle: float) -> None:
    for feature, work in Guest(url, settle).features():
        verdict, note = "pass", ""
        try:
            async with asyncio.timeout(_FEATURE_SECONDS):
                note = await work()
        except _NotOffered as outcome:
            verdict, note = "not offered", str(outcome)
        except Exception as error:
            verdict, note = "fail", f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps([feature.value, verdict, note]) + "\n")
        sys.stdout.flush()


def main(url: str, settle: str) -> None:
    """Run every feature against ``url``; ``settle`` in seconds."""
    asyncio.run(_run(Url.parse(url), float(settle)))


if __name__ == "__main__":
    main(*sys.argv[1:])
