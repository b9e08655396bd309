"""Commands on their way while something happens to them; for this machine and for the guest alike."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from initiator.lun import Lun
from iser.errors import CommandAborted, ConnectionFailed, ConnectionLost, LoginError
from iser.pdu import TaskManagementFunction, TaskManagementResponseCode
from iser.scsi.lun import encode_lun
from tests.interop.lists import check_blocks
from tests.interop.peers.base import CHAP, MUTUAL, Connect
from tests.interop.peers.slow import SLOW_SECONDS

__all__ = [
    "BOTH_WAYS", "DEPTH", "REFUSALS", "WRONG", "all_lost", "cancel_writes", "check_chap", "end_reads", "run_load",
]  # fmt: skip

DEPTH: Final = 32
#: Answers of a target that does not offer a function.
REFUSALS: Final = (
    TaskManagementResponseCode.FUNCTION_NOT_SUPPORTED,
    TaskManagementResponseCode.AUTHORIZATION_FAILED,
    TaskManagementResponseCode.FUNCTION_REJECTED,
)
#: Options of a login with CHAP one way and both ways, and a secret that is wrong.
_ONE_WAY: Final = {"user": CHAP[0], "password": CHAP[1], "chap": "md5"}
BOTH_WAYS: Final = _ONE_WAY | {"target_user": MUTUAL[0], "target_password": MUTUAL[1]}
WRONG: Final = "no" * 8
_END_SECONDS: Final = 30.0  # until a lost connection must have been noticed
_TRY_SECONDS: Final = 10.0  # for a login that may hang
_CANCEL_AFTER: Final = (0.0, 0.002, 0.02)  # seconds


def run_load(lun: Lun, *, writing: bool = True) -> list[asyncio.Task[Any]]:
    """Reads and writes that go on until the connection ends."""

    async def forever(number: int) -> None:
        data = bytes(256 << 10)
        while True:
            if writing:
                await lun.write(number * 512, data)
            await lun.read(number * 512, 512)

    return [asyncio.create_task(forever(number)) for number in range(8)]


async def all_lost(load: list[asyncio.Task[Any]], lun: Lun) -> None:
    """Every command ends in an error of ours, and no STag stays valid."""
    done, pending = await asyncio.wait(load, timeout=_END_SECONDS)
    for task in pending:
        task.cancel()
    assert not pending, f"commands still hung {_END_SECONDS:g} seconds after the connection's end"
    assert all(isinstance(task.exception(), ConnectionLost | CommandAborted) for task in done)
    await lun.close()
    assert lun.link.datamover.live_keys == 0


async def cancel_writes(lun: Lun) -> None:
    """Cancel large writes at several ages, which aborts them; the disk works on.  Raises AssertionError."""
    await check_blocks(lun, lun.max_transfer, 0, seed=12)
    for delay in _CANCEL_AFTER:
        doomed = asyncio.ensure_future(lun.write(0, bytes(lun.max_transfer)))
        await asyncio.sleep(delay)
        doomed.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await doomed
        assert lun.link.datamover.live_keys == 0
    await check_blocks(lun, lun.max_transfer, 0, seed=13)


async def end_reads(lun: Lun, number: int, function: TaskManagementFunction) -> tuple[int, int]:
    """Carry out ``function`` while the slow disk ``lun``, LUN ``number``, has DEPTH reads to do.

    Gives the target's answer and how many reads it ended.  Raises ConnectionLost when the target closes on it.
    """
    load = [asyncio.ensure_future(lun.read(n * 8, 8)) for n in range(DEPTH)]
    await asyncio.sleep(SLOW_SECONDS / 4)  # they all have begun, and none has ended
    try:
        code = await lun.session.manage_tasks(function, encode_lun(number))
    finally:
        outcomes = await asyncio.gather(*load, return_exceptions=True)
    return code, sum(isinstance(outcome, CommandAborted) for outcome in outcomes)


async def check_chap(connect: Connect, *, both_only: bool, tries: int = 1) -> str:
    """Log in with CHAP one way, unless ``both_only``, and both ways; and in vain with no secret and with wrong ones.

    ``tries`` is how often one login may hang, and be tried again, with a peer that loses requests.
    """
    for options in (BOTH_WAYS,) if both_only else (_ONE_WAY, BOTH_WAYS):
        async with await _patiently(connect, options, tries) as lun:
            await check_blocks(lun, 4096, 0, seed=6)
    for bad in ({}, _ONE_WAY | {"password": WRONG}, BOTH_WAYS | {"target_password": WRONG}):
        try:
            async with await _patiently(connect, bad, tries):
                raise AssertionError(f"the target took a login with {sorted(bad)}, one of them wrong")
        except (LoginError, ConnectionLost):  # LIO closes before its status has left
            pass
    async with await _patiently(connect, BOTH_WAYS, tries):  # none of these has done harm
        pass
    return "MD5; none, and a wrong secret of either side, is refused"


async def _patiently(connect: Connect, options: dict[str, str], tries: int) -> Lun:
    if tries == 1:
        return await connect(**options)
    for _ in range(tries - 1):
        try:
            return await connect(**options, login_timeout=_TRY_SECONDS)
        except ConnectionFailed:
            continue
    return await connect(**options)
