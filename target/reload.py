"""From one configuration to another while the target serves: only what differs is touched.

What can fail is tried first: secrets are read, new LUNs opened, new portals bound.  If that fails, nothing has changed.
Only what needs something that is in use until then, such as a file whose LUN is opened anew or the port of a portal
that goes, is tried later; what fails then is left out, and told by :class:`ReloadIncomplete`.

A session goes on if the new rules let its initiator in, at the portal that it came by.  One whose LUNs have changed is
told so by a unit attention, REPORTED LUNS DATA HAS CHANGED.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from iser.errors import IserError, UsageError
from target.access import AccessPolicy
from target.closing import close_units
from target.config.access import build_policy
from target.config.build import build_unit, stores
from target.config.diff import Change, LunFate, diff, lun_fate
from target.config.model import Config, LunConfig, PortalConfig, TargetConfig, load
from target.registry import ServedTarget
from target.scsi import LogicalUnit, TargetDevice
from target.task import Task

if TYPE_CHECKING:
    from target.connection import Connection
    from target.portal import Portal
    from target.server import TargetServer
    from target.session import Session

__all__ = [
    "LUN_DRAIN_TIMEOUT",
    "Reload",
    "ReloadIncomplete",
    "Reloadable",
    "apply",
    "reload_file",
    "reload_on",
    "without_lun",
    "without_portal",
]

#: Seconds that commands get to end which run on a LUN that goes; then they are aborted.
LUN_DRAIN_TIMEOUT: Final = 5.0

log = logging.getLogger("iser.target")


class ReloadIncomplete(IserError):  # noqa: N818 - an outcome: most of the configuration is in effect
    """Some parts of a new configuration could not be had; the message has a line for each, the rest is in effect."""


class Reloadable(Protocol):
    """What serves a configuration that it read from ``file``; None for one that came from flags."""

    file: Path | None

    async def reload(self, config: Config) -> list[Change]:
        """Serve ``config`` from now on; returns the differences.  Raises as :func:`apply`."""


class _Key(NamedTuple):
    """A LUN: the name of its target, and its number."""

    target: str
    lun: int


async def apply(server: TargetServer, new: Config) -> list[Change]:
    """Let ``server`` serve ``new``; returns the differences.  One at a time.

    Raises UsageError, BackendError or ConnectionFailed with nothing changed, or ReloadIncomplete.
    """
    changes = diff(server.config, new)
    reload = Reload(server, new, build_policy(new))
    try:
        await reload.prepare()
    except BaseException:
        await reload.roll_back()
        raise
    await reload.carry_out()
    for change in changes:
        log.info("reload: %s", change)
    if reload.failed:
        raise ReloadIncomplete("\n".join(reload.failed))
    return changes


async def reload_file(server: Reloadable) -> list[Change]:
    """Read the server's file anew and serve what it says; logs the outcome.  Raises ConfigErrors, and as :func:`apply`.

    A server that was started from flags has none, which is a UsageError.
    """
    try:
        if server.file is None:
            raise UsageError("this target was started from flags; there is no file to read anew")
        changes = await server.reload(load(server.file))
    except ReloadIncomplete as error:
        _log_lines("incomplete", error)
        raise
    except IserError as error:
        _log_lines("nothing changed", error)
        raise
    log.info("reload: %s differences", len(changes) or "no")
    return changes


async def reload_on(hangup: asyncio.Event, server: Reloadable) -> None:
    """Run :func:`reload_file` whenever ``hangup`` is set, until cancelled."""
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            await reload_file(server)
        except IserError as error:
            log.debug("reload: %r", error)  # its words are in the log
        except Exception:  # a fault of ours must not end a target that serves
            log.exception("reload: internal error")


def _log_lines(what: str, error: IserError) -> None:
    for line in str(error).splitlines():
        log.error("reload: %s: %s", what, line)


class Reload:
    """One reload.  :meth:`prepare`, then :meth:`carry_out`, or :meth:`roll_back` if it fails.

    ``failed`` is what could not be had, a line each.  The server's lock ``changing`` is to be held meanwhile.
    """

    def __init__(self, server: TargetServer, new: Config, policy: AccessPolicy) -> None:
        self._server = server
        self._new = new
        self._policy = policy
        self.failed: list[str] = []
        self._served = dict(server.registry.targets)
        self._lun_configs = _luns(new)
        self._units: dict[_Key, LogicalUnit] = {}
        self._opened: list[LogicalUnit] = []
        self._portals: dict[str, Portal] = {}
        self._old_luns = _luns(server.config)
        self._sort_luns(self._old_luns)
        self._sort_portals(server.config.portal)

    def _sort_luns(self, old: dict[_Key, LunConfig]) -> None:
        """What becomes of each LUN."""
        self._leaving: dict[_Key, LogicalUnit] = {}
        self._to_open: list[_Key] = []
        self._to_resize: list[_Key] = []
        in_use: set[str] = set()
        for key, lun in old.items():
            unit = self._served[key.target].device.luns[key.lun]
            now = self._lun_configs.get(key)
            fate = lun_fate(lun, now) if now else None
            if fate in (None, LunFate.REPLACE):
                self._leaving[key] = unit
                in_use.update(stores(lun))
            else:
                self._units[key] = unit
                if fate is LunFate.RESIZE:
                    self._to_resize.append(key)
        added = [key for key in self._lun_configs if key not in self._units]
        self._late = [key for key in added if not in_use.isdisjoint(stores(self._lun_configs[key]))]
        self._to_open = [key for key in added if key not in self._late]

    def _sort_portals(self, old: dict[str, PortalConfig]) -> None:
        """What becomes of each portal; those in ``_gone`` end, or have another group for new sessions only."""
        wanted = self._new.portal
        self._kept = {name for name in old if name in wanted and old[name].listen == wanted[name].listen}
        self._gone = {name for name, portal in old.items() if portal != wanted.get(name)}
        taken = {self._server.open_portals[name].bound.port for name in old if name not in self._kept}
        added = [name for name in wanted if name not in self._kept]
        self._late_portals = [name for name in added if wanted[name].listen.port in taken]
        self._early_portals = [name for name in added if name not in self._late_portals]

    # What may fail

    async def prepare(self) -> None:
        """Open what can be opened beside what is served.  Raises IserError."""
        for key in self._to_open:
            await self._open(key)
        for name in self._early_portals:
            self._portals[name] = await self._server.open_portal(self._new, name)

    async def roll_back(self) -> None:
        """Close what :meth:`prepare` opened."""
        for portal in self._portals.values():
            await portal.close()
        await close_units(self._opened)

    async def _open(self, key: _Key) -> None:
        unit = await build_unit(key.target, self._lun_configs[key], self._new.limits)
        self._units[key] = unit
        self._opened.append(unit)

    # What is done

    async def carry_out(self) -> None:
        """Change over.  Raises nothing for what could not be had: see ``failed``."""
        await self._change_portals()
        running = list(self._running_on(set(self._leaving.values())))
        ending = self._change_targets()
        await self._server.ended(ending)
        await _drain(running)
        await close_units(self._leaving.values())
        await self._open_late()
        await self._resize()

    async def _change_portals(self) -> None:
        server = self._server
        for name, portal in list(server.open_portals.items()):
            if name not in self._kept:
                await portal.close()
        for name in self._late_portals:
            try:
                self._portals[name] = await server.open_portal(self._new, name)
            except IserError as error:
                self.failed.append(f"portal {name} is not served: {error}")
                self._new = without_portal(self._new, name)
        kept = {name: server.open_portals[name] for name in self._kept}
        for name, portal in kept.items():
            portal.place = portal.place._replace(group=self._new.portal[name].group)
        opened = kept | self._portals
        server.open_portals.clear()
        server.open_portals.update((name, opened[name]) for name in self._new.portal)

    def _running_on(self, units: set[LogicalUnit]) -> Iterator[tuple[Session, Task]]:
        for session in self._server.registry.sessions.values():
            for task in (*session.tasks.values(), *session.ending):
                if session.unit(task.bhs.lun) in units:
                    yield session, task

    def _change_targets(self) -> list[Connection]:
        """Serve the LUNs that there are now, and move the sessions, in one turn of the loop; returns who has to end."""
        self._server.renew(self._new, self._policy, [self._target(target) for target in self._new.target])
        for connection in self._server.connections:
            if connection.ending:
                continue
            if connection.session is None:
                if connection.admitted or connection.portal in self._gone:
                    connection.drop("the configuration changed during the login")
            else:
                why = self._move(connection, connection.session)
                if why:
                    connection.end(why)
        # Those that were on their way out may use what is about to be closed, too.
        return [connection for connection in self._server.connections if connection.ending]

    def _target(self, target: TargetConfig) -> ServedTarget:
        """The target as it is to be served; the same object if the name was served already."""
        luns = {lun.id: self._units[key] for lun in target.lun if (key := _Key(target.name, lun.id)) in self._units}
        portals = frozenset(target.portals)
        served = self._served.get(target.name)
        device = served.device if served and served.device.luns == luns else TargetDevice(target.name, luns)
        if served is None:
            served = self._served[target.name] = ServedTarget(device, target.alias, portals)
        else:
            served.renew(device, target.alias, portals)
        device.set_ports(self._new.groups(target))
        return served

    def _move(self, connection: Connection, session: Session) -> str | None:
        """Let the session go on in what is served now; else says why it has to end."""
        if connection.portal in self._gone:
            return f"portal {connection.portal} was removed or changed"
        if session.execution is None:
            return None
        login = session.login
        served = self._server.registry.targets.get(login.target_name)
        if served is None:
            return f"target {login.target_name} was removed"
        if served.portals and connection.portal not in served.portals:
            return f"target {served.name} is not at portal {connection.portal} any more"
        rule = self._policy.keeps(served.name, login.initiator_name, connection.user)
        if rule is None:
            return f"no rule lets {login.initiator_name} in as it logged in"
        session.move(served.view(rule))
        return None

    async def _open_late(self) -> None:
        """Open what had to wait for its store, and serve that, too."""
        for key in self._late:
            try:
                await self._open(key)
            except IserError as error:
                self.failed.append(f"LUN {key.lun} of {key.target} is not served: {error}")
                self._new = _with_lun(self._new, key, None)
        if self._late:
            self._gone = set()
            await self._server.ended(self._change_targets())

    async def _resize(self) -> None:
        for key in self._to_resize:
            try:
                await self._units[key].resize(self._lun_configs[key].size)
            except IserError as error:
                self.failed.append(f"LUN {key.lun} of {key.target} keeps its size: {error}")
                self._new = _with_lun(self._new, key, self._old_luns[key])
        self._server.config = self._new


def _luns(config: Config) -> dict[_Key, LunConfig]:
    return {_Key(target.name, lun.id): lun for target in config.target for lun in target.lun}


def without_portal(config: Config, name: str) -> Config:
    """``config`` as it is served where a portal could not be had."""
    return config.model_copy(
        update={"portal": {other: portal for other, portal in config.portal.items() if other != name}}
    )


def without_lun(config: Config, target: str, lun: int) -> Config:
    """``config`` as it is served where a LUN could not be had."""
    return _with_lun(config, _Key(target, lun), None)


def _with_lun(config: Config, key: _Key, lun: LunConfig | None) -> Config:
    """``config`` as it came to be served: a LUN as it is, or without it, so that the next reload tries it anew."""
    now = () if lun is None else (lun,)
    targets = []
    for target in config.target:
        if target.name == key.target:
            others = tuple(other for other in target.lun if other.id != key.lun)
            targets.append(target.model_copy(update={"lun": others + now}))
        else:
            targets.append(target)
    return config.model_copy(update={"target": tuple(targets)})


async def _drain(running: list[tuple[Session, Task]]) -> None:
    """Give commands time to end; what takes too long is aborted, as nobody could answer for it any more."""
    deadline = asyncio.get_running_loop().time() + LUN_DRAIN_TIMEOUT
    while asyncio.get_running_loop().time() < deadline:
        if all(task.ended for _, task in running):
            return
        await asyncio.sleep(0.02)
    for session, task in running:
        if not task.ended:
            log.warning("%s: aborting task %#x: its LUN was removed", session.name, task.bhs.itt)
            over = asyncio.Event()
            session.drop([task], over.set)
            with contextlib.suppress(TimeoutError):  # of a store that hangs, which must not keep all else waiting
                await asyncio.wait_for(over.wait(), LUN_DRAIN_TIMEOUT)
