"""Several processes that serve one configuration: ``workers = N``.

A parent binds the portals and starts the workers; each of them serves its own targets, and sends a login for another's
target there by the protocol's redirection.  No two share a LUN, so there is no state between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from target.config import Config
from target.workers.administration import WorkersAdministration
from target.workers.messages import Logging
from target.workers.sockets import check_provider_of
from target.workers.spread import spread
from target.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from target.workers.metrics import WorkersCollector

__all__ = ["Logging", "Supervisor", "WorkersAdministration", "describe", "metrics_of"]


async def describe(config: Config) -> list[str]:
    """A line for each worker that ``config`` would have, with what it serves.

    Raises UsageError for portals that processes cannot share on this machine.
    """
    for name, portal in config.portal.items():
        await check_provider_of(name, portal, config.rnic)
    owners = spread(config, config.workers)
    served = {number: [name for name, owner in owners.items() if owner == number] for number in _numbers(config)}
    return [f"worker {number}: {', '.join(names) or 'no target'}" for number, names in served.items()]


def metrics_of(supervisor: Supervisor) -> WorkersCollector:
    """The metrics of all workers."""
    from target.workers.metrics import WorkersCollector  # noqa: PLC0415 - only who wants metrics pays for importing it

    return WorkersCollector(supervisor)


def _numbers(config: Config) -> range:
    return range(1, config.workers + 1)
