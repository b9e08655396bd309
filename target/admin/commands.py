"""What the admin socket can be asked for: views of the running target, and changes to it."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from time import monotonic, time
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from iser.errors import UsageError
from iser.logs import set_levels
from iser.net import display
from target.config.base import Table
from target.config.values import parse_size
from target.counters import LunCounters
from target.registry import ServedTarget

if TYPE_CHECKING:
    from target.connection import Connection
    from target.server import TargetServer

__all__ = [
    "MAX_SPECS",
    "Administration",
    "Command",
    "CommandTable",
    "Commands",
    "DropSession",
    "Json",
    "Nothing",
    "Resize",
    "SetLog",
    "checked",
    "percentile",
]

#: Objects, lists and values as JSON has them.
Json = Any
_T = TypeVar("_T", bound=Table)
#: Gets its arguments, unchecked; returns what the client gets.
Command = Callable[[dict[str, Json]], Awaitable[Json]]

MAX_SPECS: Final = 64  # log levels that one command may set

log = logging.getLogger("iser.admin")


class Commands(Protocol):
    """What answers at an admin socket."""

    async def run(self, command: str, arguments: dict[str, Json]) -> Json:
        """Carry out ``command``.  Raises IserError; what it returns can be written as JSON."""


class Nothing(Table):
    """For commands without arguments."""


class DropSession(Table):
    """The session's number."""

    session: int


class Resize(Table):
    """The LUN's number, the target's name where there are several, the size in bytes or what the backend has become."""

    lun: int
    target: str | None = None
    size: Annotated[int | None, BeforeValidator(lambda value: value if value is None else parse_size(value))] = None


class SetLog(Table):
    """Levels as ``--log`` takes them."""

    levels: tuple[str, ...] = Field(strict=False, min_length=1, max_length=MAX_SPECS)


class CommandTable(ABC):
    """Commands by name: the views and changes of a subclass, and ``more``, which get their arguments as they came."""

    def __init__(self, more: Mapping[str, Command] | None = None) -> None:
        self._began = monotonic()
        self._commands: dict[str, Command] = {
            "status": self._status,
            "sessions": self._sessions,
            "luns": self._luns,
            "drop-session": self._drop_session,
            "resize": self._resize,
            "set-log": self._set_log,
            **(more or {}),
        }

    async def run(self, command: str, arguments: dict[str, Json]) -> Json:
        """Carry out ``command``.  Raises UsageError for one that does not exist, and what the command raises."""
        found = self._commands.get(command)
        if found is None:
            raise UsageError(f"{command!r} is no command; use {', '.join(self._commands)}")
        return await found(arguments)

    @property
    def _uptime(self) -> float:
        return round(monotonic() - self._began, 3)

    @abstractmethod
    async def _status(self, arguments: dict[str, Json]) -> Json: ...

    @abstractmethod
    async def _sessions(self, arguments: dict[str, Json]) -> Json: ...

    @abstractmethod
    async def _luns(self, arguments: dict[str, Json]) -> Json: ...

    @abstractmethod
    async def _drop_session(self, arguments: dict[str, Json]) -> Json: ...

    @abstractmethod
    async def _resize(self, arguments: dict[str, Json]) -> Json: ...

    @abstractmethod
    async def _set_log(self, arguments: dict[str, Json]) -> Json: ...


class Administration(CommandTable):
    """The commands on ``server``, by name; ``more`` are others, which get their arguments as they came.

    :meth:`run` raises UsageError and BackendError; all that it returns can be written as JSON, sizes in bytes.
    """

    def __init__(self, server: TargetServer, more: Mapping[str, Command] | None = None) -> None:
        super().__init__(more)
        self._server = server

    # Views

    async def _status(self, arguments: dict[str, Json]) -> Json:
        checked(Nothing, arguments)
        server = self._server
        registry, staging = server.registry, server.staging
        return {
            "version": version("iser"),
            "pid": os.getpid(),
            "uptime": self._uptime,
            "portals": [str(portal) for portal in server.portals],
            "targets": len(registry.targets),
            "luns": sum(len(target.device.luns) for target in registry.targets.values()),
            "connections": len(server.connections),
            "sessions": server.sessions,
            "logins": registry.counters.logins,
            "logins_redirected": registry.counters.redirected,
            "logins_refused": dict(registry.counters.refused),
            "staging": {
                "in_use": staging.in_use,
                "high_water": staging.high_water,
                "limit": staging.limit,
                "waiting": staging.waiting,
            },
            "draining": registry.draining,
        }

    async def _sessions(self, arguments: dict[str, Json]) -> Json:
        checked(Nothing, arguments)
        return [_session_view(each) for each in self._server.connections if each.session]

    async def _luns(self, arguments: dict[str, Json]) -> Json:
        checked(Nothing, arguments)
        counted: dict[tuple[str, int | None], LunCounters] = {}
        for key, counters in self._server.lun_counters().items():
            counted.setdefault((key.target, key.lun), LunCounters()).add(counters)
        return [
            _lun_view(target, number, counted.get((target.name, number), LunCounters()))
            for target in self._server.registry.targets.values()
            for number in target.device.luns
        ]

    # Changes

    async def _drop_session(self, arguments: dict[str, Json]) -> Json:
        wanted = checked(DropSession, arguments).session
        for connection in self._server.connections:
            session = connection.session
            if session and session.login.tsih == wanted:
                log.info("dropping session %d of %s", wanted, session.login.initiator_name)
                connection.end("the administrator dropped the session")
                return {"session": wanted, "initiator": session.login.initiator_name}
        raise UsageError(f"there is no session {wanted}; see 'iser-target sessions'")

    async def _resize(self, arguments: dict[str, Json]) -> Json:
        request = checked(Resize, arguments)
        target = self._target(request.target)
        unit = target.device.luns.get(request.lun)
        if unit is None:
            raise UsageError(f"{target.name} has no LUN {request.lun}; see 'iser-target luns'")
        before = unit.backend.size
        await unit.resize(request.size)
        log.info("%s LUN %d: resized from %d to %d bytes", target.name, request.lun, before, unit.backend.size)
        return {"target": target.name, "lun": request.lun, "before": before, "size": unit.backend.size}

    def _target(self, name: str | None) -> ServedTarget:
        targets = self._server.registry.targets
        if name is None:
            if len(targets) != 1:
                raise UsageError(f"say which of the {len(targets)} targets is meant, with --target")
            return next(iter(targets.values()))
        if name not in targets:
            raise UsageError(f"there is no target {name!r}; see 'iser-target luns'")
        return targets[name]

    async def _set_log(self, arguments: dict[str, Json]) -> Json:
        levels = checked(SetLog, arguments).levels
        set_levels(levels)
        log.info("log levels set: %s", " ".join(levels))
        return {"levels": list(levels)}


def checked(kind: type[_T], arguments: dict[str, Json]) -> _T:
    """``arguments`` as what the command takes.  Raises UsageError."""
    try:
        return kind.model_validate(arguments)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, detail['loc']))}: {detail.get('ctx', {}).get('error') or detail['msg']}"
            for detail in error.errors()
        ]
        raise UsageError("; ".join(faults)) from error


def _session_view(connection: Connection) -> dict[str, Json]:
    session = connection.session
    assert session
    login = session.login
    total = LunCounters()
    for counters in session.counters.values():
        total.add(counters)
    window, credit = session.window
    return {
        "session": login.tsih,
        "initiator": login.initiator_name,
        "target": login.target_name or None,
        "discovery": login.discovery,
        "transport": connection.transport,
        "portal": connection.portal,
        "address": display(connection.remote),
        "age": round(time() - connection.began, 3),
        "running": len(session.tasks),
        "window": window,
        "credits": credit,
        **_counts(total),
    }


def _lun_view(target: ServedTarget, number: int, counters: LunCounters) -> dict[str, Json]:
    unit = target.device.luns[number]
    return {
        "target": target.name,
        "lun": number,
        "backend": unit.backend.name,
        "size": unit.backend.size,
        "block_size": unit.backend.block_size,
        "read_only": unit.read_only,
        "serial": unit.identity.serial,
        **_counts(counters),
        "latency_mean": counters.nanoseconds / counters.commands / 1e9 if counters.commands else None,
        "latency_p99": percentile(counters, 0.99),
    }


def _counts(counters: LunCounters) -> dict[str, Json]:
    return {
        "commands": counters.commands,
        "read_bytes": counters.read_bytes,
        "written_bytes": counters.written_bytes,
        "errors": sum(counters.errors.values()),
        "aborted": counters.aborted,
    }


def percentile(counters: LunCounters, share: float) -> float | None:
    """The seconds that ``share`` of the commands took no longer than, rounded up to a power of two of nanoseconds."""
    seen = 0
    for bits, count in enumerate(counters.latency):
        seen += count
        if count and seen >= share * counters.commands:
            return float((1 << bits) / 1e9)
    return None
