"""SANITIZE (SBC-3 5.30): the whole unit is overwritten or erased, and nothing but that can stop it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from iser.errors import BackendError
from iser.scsi.codes import INVALID_FIELD_IN_CDB, INVALID_PARAMETER, SANITIZE_FAILED
from target.scsi.modify import fill
from target.scsi.plan import GOOD, Async, Done, Plan, ScsiTask
from target.scsi.sanitizing import Sanitizing
from target.scsi.unit import LogicalUnit

__all__ = ["OVERWRITE_RATE", "block_erase", "exit_failure_mode", "overwrite"]

#: Bytes a second that an overwrite writes, so that other units and their users get their share of the machine.
OVERWRITE_RATE: Final = 128 << 20
#: Bytes that are erased before others get their turn.
_ERASE: Final = 1 << 30

#: How often a command that waits looks whether it was aborted, in seconds.
_LOOK: Final = 0.1

_IMMED = 0x80
_RESERVED = 0x40
_AUSE = 0x20
_TEST = 0x60
_INVERT = 0x80
_COUNT = 0x1F
_HEADER = 4

_Job = Callable[[LogicalUnit, Sanitizing], Coroutine[Any, Any, None]]

log = logging.getLogger("iser.target")


def _refuse(lu: LogicalUnit, task: ScsiTask) -> Done | None:
    """What all service actions refuse."""
    if task.cdb[1] & _RESERVED:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    for field in range(2, 7):
        if task.cdb[field]:
            return lu.check(INVALID_FIELD_IN_CDB, field=field)
    return None


def _refuse_erase(lu: LogicalUnit, task: ScsiTask) -> Done | None:
    """What those refuse that take no parameters."""
    if any(task.cdb[7:9]):
        return lu.check(INVALID_FIELD_IN_CDB, field=7)
    return _refuse(lu, task)


def exit_failure_mode(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """EXIT FAILURE MODE: leave the failed state, where the failed command allowed that."""
    refused = _refuse_erase(lu, task)
    state = lu.sanitizing
    if refused or state is None:
        return refused or GOOD
    if not state.failed or not state.unrestricted:
        return lu.check(SANITIZE_FAILED) if state.failed else lu.check(INVALID_FIELD_IN_CDB, field=1)
    lu.sanitizing = None
    lu.update_gate()
    return GOOD


def block_erase(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """BLOCK ERASE: every block is unmapped.  Reads find zeros afterwards (WABEREQ 01b)."""
    refused = _refuse_erase(lu, task)
    if refused or lu.protection is not None or not lu.thin:
        return refused or lu.check(lu.protection or INVALID_FIELD_IN_CDB)
    return Async(partial(_start, lu, task, _erase))


async def _erase(lu: LogicalUnit, state: Sanitizing) -> None:
    for start in range(0, state.total, _ERASE):
        await lu.backend.discard(start, min(_ERASE, state.total - start))
        state.done = start
    await lu.backend.flush()


def overwrite(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """OVERWRITE: every block has the pattern that the parameters give, written as often as they say."""
    length = int.from_bytes(task.cdb[7:9], "big")
    refused = _refuse(lu, task)
    if refused or lu.protection is not None:
        return refused or lu.check(lu.protection or INVALID_FIELD_IN_CDB)
    if not _HEADER < length <= _HEADER + lu.block_size:
        return lu.check(INVALID_FIELD_IN_CDB, field=7)
    return Async(partial(_overwrite, lu, task, length), length)


async def _overwrite(lu: LogicalUnit, task: ScsiTask, length: int) -> Done:
    data = bytes(task.data_out)
    size = int.from_bytes(data[2:4], "big")
    if len(data) < length or not size or size > length - _HEADER:
        return lu.check(INVALID_PARAMETER, parameter=2)
    count = data[0] & _COUNT
    if not count or data[0] & _TEST:
        return lu.check(INVALID_PARAMETER, parameter=0)
    pattern = data[_HEADER : _HEADER + size]
    block = (pattern * -(-lu.block_size // size))[: lu.block_size]
    return await _start(lu, task, partial(_fill_all, block=block, passes=count, invert=bool(data[0] & _INVERT)))


async def _fill_all(lu: LogicalUnit, state: Sanitizing, *, block: bytes, passes: int, invert: bool) -> None:
    """``passes`` times all blocks; with ``invert``, every other pass with the bits turned over."""
    size = state.total
    state.total = size * passes
    loop = asyncio.get_running_loop()
    began = loop.time()
    turned = bytes(byte ^ 0xFF for byte in block)
    for number in range(passes):
        async for done in fill(lu, 0, size, turned if invert and number % 2 else block):
            state.done = number * size + done
            ahead = state.done / OVERWRITE_RATE - (loop.time() - began)
            if ahead > 0:
                await asyncio.sleep(ahead)
    await lu.backend.flush()


async def _start(lu: LogicalUnit, task: ScsiTask, work: _Job) -> Done:
    """Let ``work`` run by itself: an abort of the command, a reset or a lost nexus does not end it."""
    state = lu.sanitizing = Sanitizing(lu.blocks << lu.shift, unrestricted=bool(task.cdb[1] & _AUSE))
    lu.update_gate()
    job = asyncio.get_running_loop().create_task(_carry_out(lu, state, work))
    lu.background.add(job)
    job.add_done_callback(lu.background.discard)
    if not task.cdb[1] & _IMMED:
        while not job.done() and not task.aborted:
            await asyncio.wait((job,), timeout=_LOOK)
        if state.failed:
            return lu.check(SANITIZE_FAILED)
    return GOOD


async def _carry_out(lu: LogicalUnit, state: Sanitizing, work: _Job) -> None:
    try:
        await work(lu, state)
    except BackendError as error:
        log.error("%s: sanitize failed: %s", lu.backend.name, error)
        state.failed = True
        return
    lu.sanitizing = None
    lu.update_gate()
