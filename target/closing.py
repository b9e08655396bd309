"""Closing logical units whose stores may not answer any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Final

from iser.errors import IserError
from target.scsi import LogicalUnit

__all__ = ["STUCK_TIMEOUT", "close_units", "settle"]

#: Seconds that a store gets to end what runs and to flush: more than a healthy one takes, less than systemd waits.
STUCK_TIMEOUT: Final = 30.0

log = logging.getLogger("iser.target")

_left: set[asyncio.Task[None]] = set()  # of stores that are stuck; the loop alone would not keep them


async def settle(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait for ``tasks``, which end when the commands do that they carry out, STUCK_TIMEOUT seconds at most."""
    if tasks:
        await asyncio.wait(tasks, timeout=STUCK_TIMEOUT)


async def close_units(units: Iterable[LogicalUnit]) -> list[str]:
    """Close ``units`` side by side, all of them even if some fail, which is logged.

    Returns the names of the backends that do not end in STUCK_TIMEOUT seconds.  They are left to themselves.
    """
    closing = {asyncio.get_running_loop().create_task(unit.close()): unit.backend.name for unit in units}
    if not closing:
        return []
    done, stuck = await asyncio.wait(closing, timeout=STUCK_TIMEOUT)
    for task in done:
        try:
            task.result()
        except IserError as error:
            log.error("%s: not closed in good order: %s", closing[task], error)
    for task in stuck:
        log.error("%s does not end what it was told to, in %g seconds; it is left so", closing[task], STUCK_TIMEOUT)
        _left.add(task)
        task.add_done_callback(_left.discard)
    return [closing[task] for task in stuck]
