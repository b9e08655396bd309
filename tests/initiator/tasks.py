"""Commands of a session with a puppet: started, and what they leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from initiator.establish import Link
from initiator.session import Session
from initiator.task import ScsiResult
from iser.pdu import ScsiCommand
from iser.sg import SgList
from tests.initiator.puppet import Puppet

__all__ = ["CDB", "LUN", "listed", "no_live_key", "ping_pong", "started"]

LUN = 5 << 48
CDB = bytes(range(6))


def listed(*buffers: bytes | bytearray) -> SgList:
    return SgList.of(buffers, writable=isinstance(buffers[0], bytearray))


def started(work: Coroutine[Any, Any, ScsiResult]) -> asyncio.Task[ScsiResult]:
    return asyncio.create_task(work)


async def no_live_key(link: Link) -> None:
    """No STag is left, at the latest when the loop has turned a few times."""
    for _ in range(400):
        if not link.datamover.live_keys:
            break
        await asyncio.sleep(0.005)
    assert link.datamover.live_keys == 0
    assert link.planner
    assert link.planner.in_use == 0


async def ping_pong(session: Session, puppet: Puppet) -> None:
    """The session still works."""
    task = started(session.execute(0, CDB))
    command, _ = await puppet.receive(ScsiCommand)
    puppet.respond(command.itt)
    await task
