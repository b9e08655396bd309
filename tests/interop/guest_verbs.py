"""Runs in the guest: ``python -m tests.interop.guest_verbs TASK``, our initiator over verbs with any target.

``TASK`` is a :class:`Task` in JSON.  Prints a line of JSON for each feature, ``[feature, verdict, note]`` with a
verdict of pass, fail or "not offered": the interpreter starts slowly under emulation, so one process does them all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from initiator.establish import open_session, send_targets
from initiator.lun import Lun
from initiator.url import Url
from iser.datamover import IserInitiator
from iser.errors import ConnectionLost
from iser.pdu import TaskManagementFunction, TaskManagementResponseCode
from iser.rdma.api import DeviceCap
from iser.sg import SgClass
from tests.interop.lists import check_blocks, check_lists
from tests.interop.load import DEPTH, REFUSALS, all_lost, cancel_writes, check_chap, end_reads, run_load
from tests.interop.matrix import Feature
from tests.interop.strategies import STRATEGY_NAMES, check_strategy

__all__ = ["Guest", "Task", "main"]

SIZES: Final = (512, 4096, 64 << 10, 1 << 20, 8 << 20)
_FEATURE_SECONDS: Final = 60.0
_KILL_SECONDS: Final = 15.0
_FUNCTIONS: Final = {
    Feature.ABORT_TASK_SET: TaskManagementFunction.ABORT_TASK_SET,
    Feature.CLEAR_TASK_SET: TaskManagementFunction.CLEAR_TASK_SET,
    Feature.LUN_RESET: TaskManagementFunction.LOGICAL_UNIT_RESET,
    Feature.WARM_RESET: TaskManagementFunction.TARGET_WARM_RESET,
    Feature.COLD_RESET: TaskManagementFunction.TARGET_COLD_RESET,
}


class _NotOffered(Exception):  # noqa: N818 - an outcome, not an error; the guest has no pytest for the recorder's own
    """The feature does not exist here; the message says who says so."""


@dataclass(frozen=True, slots=True)
class Task:
    """The target, and what is to know of it; see :class:`tests.interop.peers.base.TargetPeer`."""

    url: str
    guarded: str  # URL
    slow_lun: int
    settle_seconds: float
    missing_seconds: float
    #: Bash scripts that end the target as a crash would, and start it again.
    kill_script: str
    start_script: str
    spares_commands: str = ""
    must_prove_itself: bool = False
    login_tries: int = 1
    #: URL of the one that is killed, where that is another.
    victim: str = ""
    cut_note: str = ""
    #: What the target does instead of answering a function that it does not offer, by the function's feature.
    not_offered: dict[str, str] = field(default_factory=dict)
    #: Whether to try each strategy, which takes long when emulated.
    strategies: bool = False


class Guest:
    """The features."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._url = Url.parse(task.url)

    async def connect(self, number: int | None = None, **options: object) -> Lun:
        """A LUN, ready for I/O."""
        return await self._connect(self._url, self._url.lun if number is None else number, options)

    async def connect_guarded(self, **options: object) -> Lun:
        """The LUN behind CHAP."""
        url = Url.parse(self._task.guarded)
        return await self._connect(url, url.lun, options)

    async def _connect(self, url: Url, number: int, options: dict[str, object]) -> Lun:
        settings = url.connect_options.with_changes({"provider": "verbs", **options})
        link = await open_session(url.portal, url.target, settings)
        await asyncio.sleep(self._task.missing_seconds)
        return await Lun.open(link, number, settings)

    async def discovery(self) -> str:
        settings = self._url.connect_options.with_changes({"provider": "verbs"})
        link = await open_session(self._url.portal, "", settings)
        try:
            await asyncio.sleep(self._task.settle_seconds)
            names = [record.name for record in await send_targets(link.session, 20.0)]
        finally:
            await link.session.close()
        assert self._url.target in names
        return ""

    async def login(self) -> str:
        async with await self.connect() as lun:
            params = lun.session.login.params
            return f"ImmediateData={params.immediate_data}, InitialR2T={params.initial_r2t}"

    async def chap(self) -> str:
        return await check_chap(
            self.connect_guarded, both_only=self._task.must_prove_itself, tries=self._task.login_tries
        )

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

    async def strategies(self) -> str:
        served: Counter[str] = Counter()
        for strategy in STRATEGY_NAMES:
            served += await check_strategy(self.connect, strategy, sizes=(32 << 10,), remotely=(True,))
        return "served by " + ", ".join(f"{name} {count}" for name, count in sorted(served.items()))

    async def immediate_data(self) -> str:
        async with await self.connect(immediate_data=True) as lun:
            if not lun.session.login.params.immediate_data:
                raise _NotOffered("the peer answers ImmediateData=No at login")
            await check_lists(lun, SgClass.BYTE_GAPPY, (8192,), seed=8)
        return ""

    async def unsolicited_data(self) -> str:
        async with await self.connect() as lun:
            if lun.session.login.params.initial_r2t:
                raise _NotOffered("both sides say InitialR2T=Yes at login")
            await check_blocks(lun, 64 << 10, 0, seed=9)
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

    async def abort_task(self) -> str:
        async with await self.connect(immediate_data=False) as lun:
            await cancel_writes(lun)
        return ""

    async def manage_tasks(self, feature: Feature, function: TaskManagementFunction) -> str:
        async with await self.connect(self._task.slow_lun, queue_depth=DEPTH) as lun:
            try:
                code, ended = await end_reads(lun, self._task.slow_lun, function)
            except ConnectionLost:
                if feature not in self._task.not_offered:
                    raise
                await self._works_again()
                raise _NotOffered(self._task.not_offered[feature]) from None
        if code in REFUSALS:
            raise _NotOffered(f"the peer answers {TaskManagementResponseCode(code).name}")
        assert code == TaskManagementResponseCode.FUNCTION_COMPLETE, code
        because = self._task.spares_commands
        assert lun.link.datamover.live_keys == 0, "keys of commands that ended still work"
        assert ended == (0 if because else DEPTH), f"ended {ended} of {DEPTH} running reads"
        await self._works_again()
        return f"ended {ended} of {DEPTH} running reads{because and ': '}{because}"

    async def logout(self) -> str:
        for number in range(5):
            lun = await self.connect()
            await check_blocks(lun, 4096, 0, seed=number)
            await lun.close()
        return ""

    async def reconnect(self) -> str:
        lun = await self.connect(immediate_data=False)
        load = run_load(lun, writing=not self._task.cut_note)
        await asyncio.sleep(0.5)
        lun.link.datamover.abort(ConnectionLost("ended by the test"))
        await all_lost(load, lun)
        await self._works_again()
        return self._task.cut_note

    async def peer_killed(self) -> str:
        url = Url.parse(self._task.victim or self._task.url)
        lun = await self._connect(url, url.lun, {"immediate_data": False})
        load = run_load(lun, writing=not self._task.cut_note)
        await asyncio.sleep(0.5)
        async with asyncio.timeout(_KILL_SECONDS):
            await _bash(self._task.kill_script)
        try:
            await all_lost(load, lun)
        finally:
            await _bash(self._task.start_script)
        async with await self._connect(url, url.lun, {}) as lun:
            await check_blocks(lun, 64 << 10, 0, seed=14)
        return self._task.cut_note

    async def _works_again(self) -> None:
        async with await self.connect() as lun:
            await check_blocks(lun, 64 << 10, 0, seed=14)

    def features(self) -> list[tuple[Feature, Callable[[], Awaitable[str]]]]:
        """All, in order; those that disturb the target last."""
        return [
            (Feature.DISCOVERY, self.discovery),
            (Feature.LOGIN, self.login),
            (Feature.CHAP, self.chap),
            (Feature.CAPACITY, self.capacity),
            *((Feature(f"{kind.value} lists"), partial(self.lists, kind)) for kind in SgClass),
            *([(Feature.STRATEGIES, self.strategies)] if self._task.strategies else []),
            (Feature.IMMEDIATE_DATA, self.immediate_data),
            (Feature.UNSOLICITED_DATA, self.unsolicited_data),
            (Feature.SIZES, self.sizes),
            (Feature.QUEUE_DEPTH, self.queue_depth),
            (Feature.REMOTE_INVALIDATION, self.remote_invalidation),
            (Feature.NOP, self.nop),
            (Feature.ABORT_TASK, self.abort_task),
            *((name, partial(self.manage_tasks, name, function)) for name, function in _FUNCTIONS.items()),
            (Feature.LOGOUT, self.logout),
            (Feature.PEER_KILLED, self.peer_killed),
            (Feature.RECONNECT, self.reconnect),
        ]


async def _bash(script: str) -> None:
    """Raises AssertionError with its last words if it fails."""
    process = await asyncio.create_subprocess_exec(
        "/bin/bash", "-c", script, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    code = await process.wait()
    assert code == 0, f"{script.strip()[:60]!r} ended with {code}"


async def _run(task: Task) -> None:
    for feature, work in Guest(task).features():
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


def main(task: str) -> None:
    """Run every feature of a :class:`Task`."""
    asyncio.run(_run(Task(**json.loads(task))))


if __name__ == "__main__":
    main(*sys.argv[1:])
