"""Prometheus metrics: a snapshot of what the target counted, made when somebody asks, and served over HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import copy
from typing import TYPE_CHECKING, Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from iser.errors import ConnectionFailed
from iser.net import Address, display
from iser.scsi.const import Status
from target.counters import LunCounters

if TYPE_CHECKING:
    from target.server import TargetServer

__all__ = [
    "MAX_REQUEST",
    "MAX_SCRAPES",
    "REQUEST_TIMEOUT",
    "SAMPLES_AT_ONCE",
    "MetricsServer",
    "RemoteCollector",
    "TargetCollector",
]

MAX_REQUEST: Final = 8192  # bytes of an HTTP request
MAX_SCRAPES: Final = 8  # at once; one more is closed
REQUEST_TIMEOUT: Final = 5.0  # seconds from the connection to its end
SAMPLES_AT_ONCE: Final = 128  # made into text before the loop goes on: about a millisecond
#: Histogram buckets end at 2**n ns: from 16 us to 17 s.
_FIRST_BUCKET: Final = 14
_LAST_BUCKET: Final = 34
_LUN: Final = ("target", "lun", "transport")
_SESSION: Final = ("session", "initiator", *_LUN)

log = logging.getLogger("iser.metrics")


class RemoteCollector(ABC):
    """Metrics that are not here but have to be asked for."""

    @abstractmethod
    async def gather(self) -> Iterable[Metric]:
        """The families."""


class _LunFamilies:
    """The families that a :class:`LunCounters` has a sample in, all called ``prefix``_something."""

    def __init__(self, prefix: str, of: str, labels: tuple[str, ...]) -> None:
        def counter(name: str, what: str, *more: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"{prefix}_{name}", f"{what} {of}.", labels=(*labels, *more))

        self.commands = counter("commands", "SCSI commands that ended with a status,")
        self.bytes = counter("bytes", "Bytes that good commands moved,", "direction")
        self.errors = counter("errors", "SCSI commands by status other than GOOD,", "status")
        self.aborted = counter("aborted", "SCSI commands that were aborted,")
        self.latency = HistogramMetricFamily(
            f"{prefix}_latency_seconds", f"Time from the start of a command to its response, {of}.", labels=labels
        )

    def add(self, labels: tuple[str, ...], counters: LunCounters) -> None:
        self.commands.add_metric(labels, counters.commands)
        self.bytes.add_metric((*labels, "read"), counters.read_bytes)
        self.bytes.add_metric((*labels, "write"), counters.written_bytes)
        for status, count in counters.errors.items():
            self.errors.add_metric((*labels, _status_name(status)), count)
        self.aborted.add_metric(labels, counters.aborted)
        self.latency.add_metric(labels, _buckets(counters), counters.nanoseconds / 1e9)

    def __iter__(self) -> Iterator[Metric]:
        return iter((self.commands, self.bytes, self.errors, self.aborted, self.latency))


class TargetCollector(Collector):
    """What ``server`` counted, as metric families."""

    def __init__(self, server: TargetServer) -> None:
        self._server = server

    def collect(self) -> Iterable[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        yield from self._process()
        yield from self._sessions()
        yield from self._luns()

    def _process(self) -> Iterable[Metric]:
        server, counters = self._server, self._server.registry.counters
        staging = server.staging
        for name, what, value in (
            ("iser_target_connections", "Connections that are open, logged in or not.", len(server.connections)),
            ("iser_target_sessions", "Sessions logged in.", server.sessions),
            ("iser_target_staging_bytes", "Staging memory in use.", staging.in_use),
            ("iser_target_staging_high_water_bytes", "The most that it was.", staging.high_water),
            ("iser_target_staging_limit_bytes", "The most that it may be.", staging.limit),
            ("iser_target_staging_waiting", "Commands that wait for staging memory.", staging.waiting),
        ):
            yield GaugeMetricFamily(name, what, value)
        yield CounterMetricFamily("iser_target_logins", "Sessions that began.", counters.logins)
        yield CounterMetricFamily(
            "iser_target_logins_redirected", "Logins that were sent to the worker of their target.", counters.redirected
        )
        polls = CounterMetricFamily(
            "iser_target_polls",
            "Waits for a request that began with looking out for it (busy_poll_us): won, or lost and then slept.",
            labels=("result",),
        )
        polls.add_metric(("won",), server.busy_poll.won)
        polls.add_metric(("lost",), server.busy_poll.lost)
        yield polls
        refused = CounterMetricFamily(
            "iser_target_logins_refused",
            "Logins that failed, by login status in hexadecimal, or timeout, crowded, full.",
            labels=("reason",),
        )
        for reason, count in counters.refused.items():
            refused.add_metric((reason,), count)
        yield refused

    def _sessions(self) -> Iterable[Metric]:
        families = _LunFamilies("iser_session", "of a session that is logged in to a LUN", _SESSION)
        info = InfoMetricFamily(
            "iser_session", "A session.", labels=("session", "initiator", "target", "transport", "portal", "address")
        )
        labels = ("session", "initiator", "target", "transport")
        window = GaugeMetricFamily("iser_session_window", "Commands that it may have outstanding.", labels=labels)
        credits_ = GaugeMetricFamily("iser_session_credits", "Commands that it may send now.", labels=labels)
        running = GaugeMetricFamily("iser_session_running", "Commands that it has outstanding.", labels=labels)
        for connection in self._server.connections:
            session = connection.session
            if session is None:
                continue
            login = session.login
            who = (str(login.tsih), login.initiator_name, login.target_name, connection.transport)
            info.add_metric((*who, connection.portal, display(connection.remote)), {})
            depth, credit = session.window
            window.add_metric(who, depth)
            credits_.add_metric(who, credit)
            running.add_metric(who, len(session.tasks))
            for lun, counters in session.counters.items():
                families.add((*who[:3], _lun_name(lun), connection.transport), counters)
        yield from (info, window, credits_, running, *families)

    def _luns(self) -> Iterable[Metric]:
        families = _LunFamilies("iser_lun", "of all sessions to a LUN, also those that are over", _LUN)
        for key, counters in self._server.lun_counters().items():
            families.add((key.target, _lun_name(key.lun), key.transport), counters)
        yield from families


def _buckets(counters: LunCounters) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound in seconds; no duration is exactly that long."""
    latency = counters.latency
    total = sum(latency[:_FIRST_BUCKET])
    buckets: list[tuple[str, float]] = []
    for bits in range(_FIRST_BUCKET, _LAST_BUCKET + 1):
        total += latency[bits]
        buckets.append((repr((1 << bits) / 1e9), total))
    return [*buckets, ("+Inf", counters.commands)]


def _lun_name(lun: int | None) -> str:
    return "none" if lun is None else str(lun)


def _status_name(status: int) -> str:
    try:
        return Status(status).name.lower()
    except ValueError:
        return f"{status:#04x}"


class MetricsServer:
    """``GET /metrics`` over HTTP/1.1, one request a connection.  Made by :meth:`open`; ``address`` is as bound."""

    def __init__(self, collector: Collector | RemoteCollector) -> None:
        self._collector = collector
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.address: Address

    @classmethod
    async def open(cls, collector: Collector | RemoteCollector, host: str, port: int) -> MetricsServer:
        """Listen.  Raises ConnectionFailed."""
        self = cls(collector)
        try:
            self._server = await asyncio.start_server(self._client, host, port, limit=MAX_REQUEST)
        except OSError as error:
            raise ConnectionFailed(
                f"cannot serve metrics on {display((host, port))}: {error.strerror or error}"
            ) from error
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def close(self) -> None:
        """Stop.  Idempotent."""
        self._server.close()
        for task in list(self._clients):
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        try:
            if len(self._clients) >= MAX_SCRAPES:
                return
            self._clients.add(task)
            async with asyncio.timeout(REQUEST_TIMEOUT):
                writer.write(await self._response(await reader.readuntil(b"\r\n\r\n")))
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:  # TimeoutError is an OSError
            log.info("a request for metrics came to nothing: %s", error or type(error).__name__)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _response(self, request: bytes) -> bytes:
        method, _, rest = request.split(b"\r\n", 1)[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _http("404 Not Found", "text/plain", b"metrics are at /metrics\n")
        if method not in {b"GET", b"HEAD"}:
            return _http("405 Method Not Allowed", "text/plain", b"use GET\n")
        body = await _exposition(self._collector)
        return _http("200 OK", CONTENT_TYPE_LATEST, body, head=method == b"HEAD")


class _Part:
    """A registry of one family, or of a part of one."""

    def __init__(self, family: Metric, samples: list[Sample]) -> None:
        self._family = copy(family)
        self._family.samples = samples

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


async def _exposition(collector: Collector | RemoteCollector) -> bytes:
    """The text, made some samples at a time: the loop that makes it serves I/O too."""
    parts: list[bytes] = []
    for family in await collector.gather() if isinstance(collector, RemoteCollector) else collector.collect():
        for start in range(0, max(1, len(family.samples)), SAMPLES_AT_ONCE):
            text = generate_latest(_Part(family, family.samples[start : start + SAMPLES_AT_ONCE]))
            # The comments that begin a family belong to its first part only.
            parts.append(text if not start else b"".join(re.findall(rb"^[^#].*\n", text, re.MULTILINE)))
            await asyncio.sleep(0)
    return b"".join(parts)


def _http(status: str, kind: str, body: bytes, *, head: bool = False) -> bytes:
    headers = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return headers.encode() + (b"" if head else body)
