"""The parent of the workers: it starts them, starts again who dies, and takes all of them through reload and end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from iser.errors import CommandTimeout, ConnectionLost, IserError, ResourceError, UsageError
from iser.logs import set_levels
from target.config import Config
from target.config.diff import Change, diff
from target.config.values import Listen
from target.reload import ReloadIncomplete
from target.workers.assignment import Assignment
from target.workers.messages import Json, Logging, Start
from target.workers.rounds import Outcome, change_all, descriptors_for, find_late, leave_out
from target.workers.sockets import PortalSockets, free_ports, open_sockets
from target.workers.spread import spread
from target.workers.worker import CHANGE_TIMEOUT, Worker

__all__ = ["FIRST_BACKOFF", "LAST_BACKOFF", "STEADY", "Slot", "Supervisor"]

FIRST_BACKOFF: Final = 0.5  # seconds before a worker that died is started again; each time twice as many
LAST_BACKOFF: Final = 30.0
STEADY: Final = 60.0  # seconds after which a worker that dies begins with the first backoff again

log = logging.getLogger("iser.workers")
reloads = logging.getLogger("iser.target")  # where one process says it, too


@dataclass(slots=True, eq=False)
class Slot:
    """The place of a worker; ``worker`` is None while none runs there, ``retry`` ends the wait for the next."""

    number: int
    worker: Worker | None = None
    restarts: int = 0
    backoff: float = FIRST_BACKOFF
    retry: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Serves a configuration with several processes.  Use :meth:`start`, then :meth:`close`."""

    def __init__(self, config: Config, logging_: Logging) -> None:
        self.config = config
        self.file: Path | None = None
        self.slots = [Slot(number) for number in range(1, config.workers + 1)]
        self.owners: Mapping[str, int] = spread(config, config.workers)
        self.stopping = False
        self._logging = logging_
        self._ports = config.worker_ports
        self._sockets: dict[str, PortalSockets] = {}
        self._changing = asyncio.Lock()
        self._watchers: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, config: Config, logging_: Logging | None = None) -> Supervisor:
        """Listen and start the workers.  Raises UsageError, ConnectionFailed and what they say, with nothing left."""
        self = cls(config, logging_ or Logging())
        try:
            self._sockets = await self._open(config, config.portal)
            outcomes = await asyncio.gather(*map(self._launch, self.slots), return_exceptions=True)
            for error in filter(None, outcomes):
                raise error
        except BaseException:
            await self.close()
            raise
        self._watchers = [asyncio.create_task(self._watch(slot)) for slot in self.slots]
        return self

    @property
    def portals(self) -> list[Listen]:
        """The portals, as bound, with their transports."""
        return [sockets.bound for sockets in self._sockets.values()]

    def own_port(self, portal: str, worker: int) -> int:
        """Where ``worker`` is reached beside ``portal``."""
        return self._sockets[portal].ports[worker - 1]

    async def close(self) -> None:
        """Take no more connections, and let every worker end in order: running commands end first.  Idempotent."""
        self.stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        async with self._changing:
            for sockets in self._sockets.values():
                sockets.close()
            await asyncio.gather(*(slot.worker.stop() for slot in self.slots if slot.worker))

    # What administrators ask for

    async def ask_all(self, command: str, arguments: Json = None) -> dict[int, Json]:
        """What the workers answer, by number; those that do not run, or hang, are left out.

        Raises UsageError in the words of one that finds fault with ``arguments``.
        """
        running = [slot.worker for slot in self.slots if slot.worker]
        answers = await asyncio.gather(*(each.ask(command, arguments) for each in running), return_exceptions=True)
        found: dict[int, Json] = {}
        for worker, answer in zip(running, answers, strict=True):
            if isinstance(answer, ConnectionLost | CommandTimeout):
                log.info("%s: %s", command, answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[worker.number] = answer
        return found

    async def ask(self, number: int, command: str, arguments: Json) -> Json:
        """What worker ``number`` answers.  Raises its errors, or ResourceError where it does not run."""
        worker = self.slots[number - 1].worker
        if worker is None:
            raise ResourceError(f"worker {number} is being started again; try again later")
        return await worker.ask(command, arguments, timeout=CHANGE_TIMEOUT)

    async def set_log(self, specs: list[str]) -> None:
        """Change what all processes log, those that are started later too.  Raises UsageError."""
        set_levels(specs)
        self._logging = self._logging.changed(specs)
        await self.ask_all("set-log", {"levels": specs})

    # Reload

    async def reload(self, config: Config) -> list[Change]:
        """Serve ``config`` from now on, with as many workers as there are; returns what has changed.

        Raises UsageError, ConnectionFailed or what a worker says with nothing changed, or ReloadIncomplete.
        """
        async with self._changing:
            if self.stopping:
                raise UsageError("the target is shutting down; it takes no new configuration")
            changes = diff(self.config, config)
            failed = await self._reload(config)
            for change in changes:
                reloads.info("reload: %s", change)
        for slot in self.slots:
            slot.backoff = FIRST_BACKOFF
            slot.retry.set()
        if failed:
            raise ReloadIncomplete("\n".join(failed))
        return changes

    async def _reload(self, config: Config) -> list[str]:
        """First what needs nothing that is in use, then the rest, one by one; returns what failed of that."""
        owners = spread(config, len(self.slots), self.owners)
        bound = {name: sockets.bound for name, sockets in self._sockets.items()}
        late = find_late(self.config, config, self.owners, owners, bound)
        failed, missing = await self._change(leave_out(config, late), owners)
        for number, item in enumerate(late, 1):
            try:
                more, lost = await self._change(leave_out(config, [*missing, *late[number:]]), owners)
            except IserError as error:
                failed.append(f"{item} is not served: {error}")
                missing.append(item)
            else:
                failed += more
                missing += lost
        return failed

    async def _change(self, config: Config, owners: Mapping[str, int]) -> Outcome:
        """Let all workers serve ``config``.  Raises IserError with nothing changed."""
        kept = {
            name: sockets
            for name, sockets in self._sockets.items()
            if name in config.portal and config.portal[name].listen == sockets.listen
        }
        opened = await self._open(config, [name for name in config.portal if name not in kept])
        try:
            sockets = {name: (kept | opened)[name] for name in config.portal}
            start = Start(self._assignment(config, owners, sockets), tuple(opened), self._logging)
            outcome = await change_all([slot.worker for slot in self.slots if slot.worker], start, opened)
        except BaseException:
            _close(opened)
            raise
        _close({name: gone for name, gone in self._sockets.items() if name not in kept})
        self._sockets, self.owners, self.config = sockets, owners, leave_out(config, outcome.missing)
        return outcome

    async def _open(self, config: Config, names: Iterable[str]) -> dict[str, PortalSockets]:
        """Listen at these portals.  Raises UsageError and ConnectionFailed with none of them open."""
        taken = {portal.listen.port for portal in config.portal.values()}
        taken |= {port for sockets in self._sockets.values() for port in (sockets.bound.port, *sockets.ports)}
        ports = free_ports(self._ports, taken)
        opened: dict[str, PortalSockets] = {}
        try:
            for name in names:
                opened[name] = await open_sockets(name, config.portal[name], config.rnic, len(self.slots), ports)
        except BaseException:
            _close(opened)
            raise
        return opened

    def _assignment(
        self, config: Config, owners: Mapping[str, int], sockets: Mapping[str, PortalSockets]
    ) -> Assignment:
        return Assignment(config, len(self.slots), owners, {name: each.ports for name, each in sockets.items()})

    # The life of a worker

    async def _launch(self, slot: Slot) -> None:
        """Start a worker with what is served now.  Raises IserError with no process left."""
        start = Start(self._assignment(self.config, self.owners, self._sockets), tuple(self._sockets), self._logging)
        worker = await Worker.spawn(slot.number)
        try:
            await worker.start(start, descriptors_for(slot.number, self._sockets))
        except BaseException:
            await worker.kill()
            raise
        slot.worker = worker

    async def _watch(self, slot: Slot) -> None:
        """Start the worker again whenever it has ended, until cancelled."""
        while slot.worker:
            worker = slot.worker
            how = await worker.ended()
            slot.worker = None
            if monotonic() - worker.began >= STEADY:
                slot.backoff = FIRST_BACKOFF
            log.error(
                "worker %d (pid %d) ended: %s; starting it again in %g s", slot.number, worker.pid, how, slot.backoff
            )
            await self._revive(slot)

    async def _revive(self, slot: Slot) -> None:
        while slot.worker is None:
            slot.retry.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(slot.retry.wait(), slot.backoff)
            slot.backoff = min(2 * slot.backoff, LAST_BACKOFF)
            try:
                async with self._changing:
                    await self._launch(slot)
            except IserError as error:
                log.error("worker %d cannot serve: %s; trying again in %g s", slot.number, error, slot.backoff)
            else:
                slot.restarts += 1
        log.info("worker %d serves again, pid %d", slot.number, slot.worker.pid)


def _close(portals: Mapping[str, PortalSockets]) -> None:
    for sockets in portals.values():
        sockets.close()
