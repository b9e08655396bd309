"""What the admin socket of the parent answers: the workers' answers as one."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from time import monotonic
from typing import Final

from iser.errors import UsageError
from target.admin.commands import Command, CommandTable, DropSession, Json, Nothing, Resize, SetLog, checked
from target.registry import ALL_NUMBERS
from target.workers.assignment import session_numbers
from target.workers.supervisor import Slot, Supervisor

__all__ = ["WorkersAdministration"]

_SUMS: Final = ("connections", "sessions", "logins", "logins_redirected")

log = logging.getLogger("iser.admin")


class WorkersAdministration(CommandTable):
    """The commands on all workers of ``supervisor``, by name; ``more`` are others, with arguments as they came.

    Answers are those of :class:`target.admin.Administration`, with the worker's number in each view.
    """

    def __init__(self, supervisor: Supervisor, more: Mapping[str, Command] | None = None) -> None:
        super().__init__(more)
        self._supervisor = supervisor

    async def _status(self, arguments: dict[str, Json]) -> Json:
        checked(Nothing, arguments)
        supervisor = self._supervisor
        answers = await supervisor.ask_all("status", {})
        refused: Counter[str] = Counter()
        staging: Counter[str] = Counter()
        for answer in answers.values():
            refused.update(answer["logins_refused"])
            staging.update(answer["staging"])
        return {
            "version": version("iser"),
            "pid": os.getpid(),
            "uptime": self._uptime,
            "portals": [str(portal) for portal in supervisor.portals],
            "targets": len(supervisor.config.target),
            "luns": sum(len(target.lun) for target in supervisor.config.target),
            **{key: sum(answer[key] for answer in answers.values()) for key in _SUMS},
            "logins_refused": dict(refused),
            "staging": {key: staging[key] for key in ("in_use", "high_water", "limit", "waiting")},
            "draining": supervisor.stopping,
            "workers": [self._worker_view(slot, answers.get(slot.number)) for slot in supervisor.slots],
        }

    def _worker_view(self, slot: Slot, answer: Json) -> Json:
        supervisor = self._supervisor
        served = [target for target in supervisor.config.target if supervisor.owners[target.name] == slot.number]
        state = "serving" if answer else "not answering" if slot.worker else "starting"
        return {
            "worker": slot.number,
            "state": state,
            "pid": slot.worker.pid if slot.worker else None,
            "uptime": round(monotonic() - slot.worker.began, 3) if slot.worker else None,
            "restarts": slot.restarts,
            "ports": {name: supervisor.own_port(name, slot.number) for name in supervisor.config.portal},
            "targets": [target.name for target in served],
            "luns": sum(len(target.lun) for target in served),
            "sessions": answer["sessions"] if answer else 0,
        }

    async def _sessions(self, arguments: dict[str, Json]) -> Json:
        return await self._all("sessions", arguments)

    async def _luns(self, arguments: dict[str, Json]) -> Json:
        return await self._all("luns", arguments)

    async def _all(self, command: str, arguments: dict[str, Json]) -> Json:
        """The views of all workers; a session and a LUN are of one only."""
        checked(Nothing, arguments)
        answers = await self._supervisor.ask_all(command, {})
        return [{"worker": number, **view} for number, views in sorted(answers.items()) for view in views]

    async def _drop_session(self, arguments: dict[str, Json]) -> Json:
        wanted = checked(DropSession, arguments).session
        count = len(self._supervisor.slots)
        if wanted not in ALL_NUMBERS:
            raise UsageError(f"there is no session {wanted}; see 'iser-target sessions'")
        owner = next(number for number in range(1, count + 1) if wanted in session_numbers(number, count))
        return await self._supervisor.ask(owner, "drop-session", arguments)

    async def _resize(self, arguments: dict[str, Json]) -> Json:
        name = checked(Resize, arguments).target
        owners = self._supervisor.owners
        if name is None:
            if len(owners) != 1:
                raise UsageError(f"say which of the {len(owners)} targets is meant, with --target")
            name = next(iter(owners))
        if name not in owners:
            raise UsageError(f"there is no target {name!r}; see 'iser-target luns'")
        return await self._supervisor.ask(owners[name], "resize", {**arguments, "target": name})

    async def _set_log(self, arguments: dict[str, Json]) -> Json:
        levels = list(checked(SetLog, arguments).levels)
        await self._supervisor.set_log(levels)
        log.info("log levels set: %s", " ".join(levels))
        return {"levels": levels}
