"""One change of what all workers serve: all get ready, then all change over; and what has to wait for another change.

A LUN that goes from one worker to another can be opened only when the first has closed it, and a port can be bound
again only when every worker has closed its socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from iser.errors import IserError
from target.config import Config
from target.config.build import stores
from target.config.values import Listen
from target.reload import without_lun, without_portal
from target.workers.messages import Json, Start
from target.workers.sockets import PortalSockets
from target.workers.worker import CHANGE_TIMEOUT, Worker

__all__ = ["Item", "Outcome", "change_all", "descriptors_for", "find_late", "leave_out"]


class Item(NamedTuple):
    """A part of a configuration that may be had or not: the portal of that name, else a LUN of a target."""

    portal: str = ""
    target: str = ""
    lun: int = 0

    def __str__(self) -> str:
        return f"portal {self.portal}" if self.portal else f"LUN {self.lun} of {self.target}"


class Outcome(NamedTuple):
    """What could not be had, in words, and as parts."""

    failed: list[str]
    missing: list[Item]


def leave_out(config: Config, items: Iterable[Item]) -> Config:
    """``config`` without these parts."""
    for item in items:
        config = without_portal(config, item.portal) if item.portal else without_lun(config, item.target, item.lun)
    return config


def find_late(
    old: Config, new: Config, before: Mapping[str, int], after: Mapping[str, int], bound: Mapping[str, Listen]
) -> list[Item]:
    """The parts of ``new`` that need something which is in use until the rest has changed.

    ``before`` and ``after`` are the owners of the targets, ``bound`` where the old portals listen.
    """
    gone = [name for name in bound if name not in new.portal or new.portal[name].listen != old.portal[name].listen]
    ports = {bound[name].port for name in gone}
    kept = bound.keys() - gone
    late = [Item(name) for name, portal in new.portal.items() if name not in kept and portal.listen.port in ports]
    users: dict[str, set[int]] = {}
    for target in old.target:
        for lun in target.lun:
            for store in stores(lun):
                users.setdefault(store, set()).add(before[target.name])
    for target in new.target:
        own = {after[target.name]}
        used = [lun for lun in target.lun if any(users.get(store, own) - own for store in stores(lun))]
        late += [Item(target=target.name, lun=lun.id) for lun in used]
    return late


def descriptors_for(worker: int, portals: Mapping[str, PortalSockets]) -> list[int]:
    """Two for each portal: shared, and the worker's own."""
    pairs = ((each.shared, each.own[worker - 1]) for each in portals.values())
    return [sock.fileno() for pair in pairs for sock in pair]


async def change_all(workers: Sequence[Worker], start: Start, opened: Mapping[str, PortalSockets]) -> Outcome:
    """Let ``workers`` serve what ``start`` says; ``opened`` are its portals, which are new to them.

    Raises IserError with nothing changed in any of them.
    """
    prepared = [
        worker.ask("prepare", start, descriptors_for(worker.number, opened), CHANGE_TIMEOUT) for worker in workers
    ]
    try:
        _raise_first(await asyncio.gather(*prepared, return_exceptions=True))
    except BaseException:
        aborted = (worker.ask("abort", timeout=CHANGE_TIMEOUT) for worker in workers)
        await asyncio.gather(*aborted, return_exceptions=True)
        raise
    committed = [worker.ask("commit", timeout=CHANGE_TIMEOUT) for worker in workers]
    return _outcome(await asyncio.gather(*committed, return_exceptions=True))


def _raise_first(answers: Iterable[Json | BaseException]) -> None:
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


def _outcome(answers: Iterable[Json | BaseException]) -> Outcome:
    outcome = Outcome([], [])
    for answer in answers:
        if isinstance(answer, IserError):
            outcome.failed.append(str(answer))  # it died, and is started again with what is served now
        elif isinstance(answer, BaseException):
            raise answer
        else:
            outcome.failed.extend(answer["failed"])
            outcome.missing.extend(Item(target=target, lun=lun) for target, lun in answer["missing"])
    return outcome
