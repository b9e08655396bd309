"""The target process: portals, connections, and an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections import Counter
from pathlib import Path
from typing import Final

from iser.errors import BackendError, IserError, UsageError
from iser.login import LOGIN_DATA_LENGTH, TargetAddress, Wishes
from iser.net import busy_poll, display, spare_processors
from iser.rdma.api import ConnectRequest, Provider
from target.access import AccessPolicy
from target.closing import close_units, settle
from target.config import Config, LimitsConfig
from target.config.access import build_policy
from target.config.build import build_device
from target.config.diff import Change
from target.config.values import Listen
from target.connection import Connection, ConnectionSettings
from target.counters import LunCounters, LunKey
from target.portal import Portal, PortalUser
from target.registry import ALL_NUMBERS, Place, Registry, ServedTarget
from target.reload import apply
from target.share import Share
from target.staging import StagingPool
from target.transport import MAX_DATA_RECEIVES, Incoming, IserIncoming, TcpIncoming

__all__ = ["DRAIN_TIMEOUT", "MAX_CLOSING", "TargetServer"]

MAX_CLOSING: Final = 64  # connections beyond the sessions and logins allowed: those that are on their way out
DRAIN_TIMEOUT: Final = 5.0  # seconds that running commands get to end

log = logging.getLogger("iser.target")


class TargetServer:
    """Serves a configuration, or as a worker the targets of one.  Use :meth:`start`, then :meth:`close`.

    ``share``, which only a worker has, counts for portals that are opened and targets that are renewed from then on.
    """

    def __init__(
        self, config: Config, policy: AccessPolicy, targets: list[ServedTarget], share: Share | None = None
    ) -> None:
        limits = config.limits
        self.config = config
        self.file: Path | None = None  # where the configuration came from, for who reads it anew
        self._targets = targets
        self.share = share
        numbers = share.numbers if share else ALL_NUMBERS
        self.registry = Registry(targets, limits.max_sessions, policy, limits.max_sessions_per_initiator, numbers)
        self.registry.elsewhere = share.elsewhere if share else {}
        self.staging = StagingPool()
        self._connections: dict[Connection, asyncio.Task[None] | None] = {}
        self._logins: dict[Connection, None] = {}  # those without a session, oldest first
        self.open_portals: dict[str, Portal] = {}
        self._provider: Provider | None = None
        #: Held while the configuration changes, and from then on when the end begins.
        self.changing = asyncio.Lock()
        self._accepting: set[asyncio.Task[None]] = set()
        self._settings = _settings(limits)
        self.busy_poll = busy_poll()
        self.stuck: list[str] = []  # backends that had not ended when close() did

    @classmethod
    async def start(cls, config: Config, provider: Provider | None = None, share: Share | None = None) -> TargetServer:
        """Open the backends and listen.  Raises UsageError, BackendError, ConnectionFailed, with nothing left open."""
        policy = share.policy if share else build_policy(config)
        self = cls(config, policy, await _open_targets(config), share)
        self._provider = provider
        self._poll_as(config)
        try:
            for name in config.portal:
                self.open_portals[name] = await self.open_portal(config, name)
        except IserError:
            await self.close()
            raise
        return self

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The portals, as bound."""
        return [(portal.bound.host, portal.bound.port) for portal in self.open_portals.values()]

    @property
    def portals(self) -> list[Listen]:
        """The portals, as bound, with their transports."""
        return [portal.bound for portal in self.open_portals.values()]

    @property
    def connections(self) -> list[Connection]:
        """Those that are open, logged in or not."""
        return list(self._connections)

    @property
    def sessions(self) -> int:
        """Sessions logged in now."""
        return len(self.registry.sessions)

    def lun_counters(self) -> dict[LunKey, LunCounters]:
        """What each LUN has done since the start, over each transport; a copy."""
        total = {key: counters.copy() for key, counters in self.registry.counters.ended.items()}
        for connection in self._connections:
            if connection.session:
                target = connection.session.login.target_name
                for lun, counters in connection.session.counters.items():
                    total.setdefault(LunKey(target, lun, connection.transport), LunCounters()).add(counters)
        return total

    async def close(self, drain: float | None = None) -> None:
        """Take no more logins, give running commands time to end, end the sessions, close the backends.

        ``drain`` is the time in seconds, DRAIN_TIMEOUT unless given.  A backend that does not answer is left after
        STUCK_TIMEOUT more, and named in ``stuck``; its threads may keep the process from ending by itself.
        """
        self.registry.draining = True
        async with self.changing:
            await self._close(DRAIN_TIMEOUT if drain is None else drain)

    async def _close(self, drain: float) -> None:
        for portal in self.open_portals.values():
            await portal.close()
        await self._drain(drain)
        tasks = [task for task in self._connections.values() if task]
        for connection in list(self._connections):
            connection.end("the target is shutting down")
        await settle(tasks)
        units = [unit for served in self._targets for unit in served.device.luns.values()]
        self.stuck = await close_units(units)
        self.busy_poll.window = 0.0

    async def reload(self, config: Config) -> list[Change]:
        """Serve ``config`` from now on: see :mod:`target.reload`; returns what has changed.

        Raises UsageError, BackendError or ConnectionFailed with nothing changed, or ReloadIncomplete.
        """
        async with self.changing:
            if self.registry.draining:
                raise UsageError("the target is shutting down; it takes no new configuration")
            return await apply(self, config)

    async def open_portal(self, config: Config, name: str) -> Portal:
        """Listen at the portal ``name`` of ``config``.  Raises ConnectionFailed or ResourceError."""
        user = PortalUser(self._connect_request, self._tcp_connection)
        if self.share:
            return Portal.adopt(name, config.portal[name], config.rnic, self.share.sockets[name], user)
        return await Portal.open(name, config.portal[name], config.rnic, self._provider, user)

    def renew(self, config: Config, policy: AccessPolicy, targets: list[ServedTarget]) -> None:
        """Let new logins have ``config`` with ``policy`` and ``targets``; what is open stays as it is."""
        limits = config.limits
        self.config = config
        self._targets[:] = targets
        self._settings = _settings(limits)
        self._poll_as(config)
        self.registry.elsewhere = self.share.elsewhere if self.share else {}
        self.registry.renew(targets, limits.max_sessions, policy, limits.max_sessions_per_initiator)

    async def ended(self, connections: list[Connection]) -> None:
        """Wait until these, which are ending, have given back what they held; DRAIN_TIMEOUT seconds at most."""
        tasks = [task for connection in connections if (task := self._connections.get(connection))]
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_TIMEOUT)

    def _poll_as(self, config: Config) -> None:
        """Set how long the loop polls: not at all where no processor would be left for initiators and other workers."""
        spare = spare_processors(config.workers)
        self.busy_poll.window = config.limits.busy_poll_us / 1e6 if spare else 0.0

    async def _drain(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            if all(connection.idle for connection in self._connections):
                return
            await asyncio.sleep(0.02)

    async def _connect_request(self, portal: Portal, request: ConnectRequest) -> None:
        settings = self._settings
        unsolicited = not settings.wishes.initial_r2t
        await self._serve(
            IserIncoming(request, portal.place, remote_invalidate=settings.remote_invalidate, unsolicited=unsolicited)
        )

    def _tcp_connection(self, portal: Portal, sock: socket.socket) -> None:
        try:
            incoming = TcpIncoming(sock, portal.place)
        except IserError as error:
            log.info("%s", error)
            return
        task = asyncio.get_running_loop().create_task(self._serve(incoming))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _serve(self, incoming: Incoming) -> None:
        limits = self.config.limits
        while len(self._logins) >= limits.max_logins:
            oldest = self._to_make_room()
            del self._logins[oldest]
            oldest.drop(f"there are more than {limits.max_logins} connections without a login")
        full = len(self._connections) >= limits.max_sessions + limits.max_logins + MAX_CLOSING
        if full or self.registry.draining:
            why = "too many connections" if full else "the target is shutting down"
            log.warning("refusing %s: %s", display(incoming.remote), why)
            self.registry.counters.refused["full"] += 1
            await incoming.reject()
            return
        connection = Connection(
            self.registry,
            self.staging,
            self._settings,
            self._places,
            incoming,
            lambda: self._logins.pop(connection, None),
        )
        self._connections[connection] = asyncio.current_task()
        self._logins[connection] = None
        try:
            await connection.serve()
        finally:
            self._logins.pop(connection, None)
            del self._connections[connection]

    def _to_make_room(self) -> Connection:
        """The login that goes: the oldest from the host that has most.  Who floods us keeps out nobody but himself."""
        counts = Counter(connection.remote[0] for connection in self._logins)
        most = max(counts.values())
        return next(connection for connection in self._logins if counts[connection.remote[0]] == most)

    def _places(self, incoming: Incoming) -> list[Place]:
        """What SendTargets says to an initiator on ``incoming``: an address does not tell its transport, so its own."""
        found = []
        for portal in self.open_portals.values():
            host, port, transport = portal.bound
            if transport == incoming.transport:
                address = TargetAddress(incoming.local[0] if _is_wildcard(host) else host, port)
                found.append(portal.place._replace(address=address))
        return found


async def _open_targets(config: Config) -> list[ServedTarget]:
    opened: list[ServedTarget] = []
    try:
        for target in config.target:
            device = await build_device(target, config.limits)
            device.set_ports(config.groups(target))
            opened.append(ServedTarget(device, target.alias, frozenset(target.portals)))
    except (UsageError, BackendError):
        for served in opened:
            await served.device.close()
        raise
    return opened


def _settings(limits: LimitsConfig) -> ConnectionSettings:
    return ConnectionSettings(
        queue_depth=limits.queue_depth,
        login_timeout=limits.login_timeout,
        wishes=Wishes(
            initial_r2t=limits.initial_r2t,
            immediate_data=limits.immediate_data,
            first_burst_length=_first_burst(limits),
            max_burst_length=limits.max_burst_length,
        ),
    )


def _first_burst(limits: LimitsConfig) -> int:
    """The configured length, or as much as a full window may send unasked into the receives that there are."""
    length = min(limits.first_burst_length, limits.max_burst_length)
    if limits.initial_r2t:
        return length
    return min(length, MAX_DATA_RECEIVES // limits.queue_depth * LOGIN_DATA_LENGTH)


def _is_wildcard(host: str) -> bool:
    return ipaddress.ip_address(host).is_unspecified
