"""Tests of target.metrics: what a Prometheus server would see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

import initiator
from iser.errors import ConnectionFailed
from iser.scsi import cdb
from target.metrics import MAX_REQUEST, MAX_SCRAPES, SAMPLES_AT_ONCE, MetricsServer, TargetCollector
from target.server import TargetServer
from tests.target.peer import INITIATOR, TARGET, config, served, serving, settled, until

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
BOTH = {"a": {"listen": "iser://127.0.0.1:0"}, "b": {"listen": "iscsi://127.0.0.1:0"}}


@asynccontextmanager
async def measured() -> AsyncIterator[tuple[TargetServer, MetricsServer]]:
    async with serving(config(portal=BOTH)) as (server, _):
        metrics = await MetricsServer.open(TargetCollector(server), "127.0.0.1", 0)
        try:
            yield server, metrics
        finally:
            await metrics.close()


async def ask(metrics: MetricsServer, request: bytes = REQUEST) -> tuple[bytes, str]:
    """The status line and the body."""
    reader, writer = await asyncio.open_connection(*metrics.address)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body.decode()


async def samples(metrics: MetricsServer, name: str, **labels: str) -> dict[str, float]:
    """The samples called ``name`` that have ``labels``, by their other labels joined."""
    status, body = await ask(metrics)
    assert status == b"HTTP/1.1 200 OK"
    return {
        ",".join(value for key, value in sample.labels.items() if key not in labels): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


async def test_a_session_is_seen_with_its_transport_and_what_it_moved() -> None:
    async with measured() as (server, metrics), served(server.addresses[0][1]) as peer:
        await peer.command(cdb.write_blocks(0, 4), write=bytes(2048))
        where = {"initiator": INITIATOR, "target": TARGET, "transport": "iser"}
        session = str(peer.login.tsih)
        assert await samples(metrics, "iser_session_commands_total", **where) == {f"0,{session}": 2}
        assert await samples(metrics, "iser_session_bytes_total", **where, session=session, lun="0") == {
            "read": 0,
            "write": 2048,
        }
        assert await samples(metrics, "iser_session_errors_total", **where, session=session, lun="0") == {
            "check_condition": 1
        }
        assert await samples(metrics, "iser_session_window", **where, session=session) == {"": 64}
        assert await samples(metrics, "iser_session_credits", **where, session=session) == {"": 64}
        assert list(await samples(metrics, "iser_session_info", **where, session=session)) == [
            f"127.0.0.1:{server.connections[0].remote[1]},a"
        ]
        assert await samples(metrics, "iser_target_sessions") == {"": 1}


async def test_the_histogram_is_cumulative_and_complete() -> None:
    async with measured() as (server, metrics), served(server.addresses[0][1]) as peer:
        for _ in range(9):
            await peer.command(cdb.read_blocks(0, 1), read=bytearray(512))
        buckets = await samples(metrics, "iser_lun_latency_seconds_bucket", target=TARGET, lun="0", transport="iser")
        assert list(buckets.values()) == sorted(buckets.values())
        assert buckets["+Inf"] == 10
        assert buckets[str((1 << 34) / 1e9)] == 10
        assert await samples(metrics, "iser_lun_latency_seconds_count", lun="0") == {f"{TARGET},iser": 10}
        (seconds,) = (await samples(metrics, "iser_lun_latency_seconds_sum", lun="0")).values()
        assert 0 < seconds < 1


async def test_a_lun_keeps_its_counts_by_transport_when_its_sessions_are_over() -> None:
    async with measured() as (server, metrics):
        for transport, address in zip(("iser", "iscsi"), server.addresses, strict=True):
            async with await initiator.connect(f"{transport}://127.0.0.1:{address[1]}/{TARGET}/0") as lun:
                await lun.read(0, 2)
        await until(lambda: not server.connections)
        by_transport = await samples(metrics, "iser_lun_bytes_total", target=TARGET, lun="0", direction="read")
        assert sorted(by_transport) == ["iser", "tcp"]
        assert min(by_transport.values()) >= 1024
        assert await samples(metrics, "iser_session_commands_total") == {}
        assert await samples(metrics, "iser_target_logins_total") == {"": 2}


async def test_polls_are_seen() -> None:
    async with measured() as (server, metrics):
        server.busy_poll.won, server.busy_poll.lost = 30, 2
        assert await samples(metrics, "iser_target_polls_total") == {"won": 30, "lost": 2}


async def test_refused_logins_and_staging_are_seen() -> None:
    async with measured() as (server, metrics):
        with pytest.raises(initiator.LoginError):
            await initiator.connect(f"iscsi://127.0.0.1:{server.addresses[1][1]}/iqn.2026-11.test:other/0")
        memory = server.staging.try_take(5000)
        assert memory is not None
        assert await samples(metrics, "iser_target_logins_refused_total") == {"0203": 1}
        assert await samples(metrics, "iser_target_staging_bytes") == {"": 8192}
        server.staging.give(memory)
        assert await samples(metrics, "iser_target_staging_bytes") == {"": 0}
        assert await samples(metrics, "iser_target_staging_high_water_bytes") == {"": 8192}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"HEAD /metrics HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /metrics?x=y HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"\r\n\r\n", b"404 Not Found"),
    ],
)
async def test_other_requests(request_: bytes, status: bytes) -> None:
    async with measured() as (_, metrics):
        line, body = await ask(metrics, request_)
        assert line == b"HTTP/1.1 " + status
        assert bool(body) != request_.startswith(b"HEAD")


async def test_a_request_without_end_and_a_crowd_are_closed() -> None:
    async with measured() as (_, metrics):
        assert await ask(metrics, b"x" * (MAX_REQUEST * 3)) == (b"", "")
        crowd = [await asyncio.open_connection(*metrics.address) for _ in range(MAX_SCRAPES)]
        await settled()
        reader, writer = await asyncio.open_connection(*metrics.address)
        assert await reader.read() == b""
        for _, other in (*crowd, (reader, writer)):
            other.close()
        await settled()
        assert (await ask(metrics))[0] == b"HTTP/1.1 200 OK"


async def test_a_silent_client_does_not_hold_up_the_end() -> None:
    async with measured() as (_, metrics):
        _, writer = await asyncio.open_connection(*metrics.address)
        await settled()
    writer.close()


async def test_an_address_in_use_is_one_sentence() -> None:
    async with measured() as (server, metrics):
        with pytest.raises(ConnectionFailed, match=r"cannot serve metrics on 127\.0\.0\.1:\d+: .*"):
            await MetricsServer.open(TargetCollector(server), *metrics.address)


class ManyLabels(Collector):
    """Two families, one of them larger than what is made into text at once, and one without samples."""

    def collect(self) -> Iterable[Metric]:
        many = CounterMetricFamily("many", "# is no comment\\n here", labels=("text",))
        for number in range(3 * SAMPLES_AT_ONCE + 1):
            many.add_metric((f'# "{number}"\n# x',), number)
        yield many
        yield CounterMetricFamily("none", "No samples.", labels=("text",))
        yield GaugeMetricFamily("one", "One.", 1)


async def test_a_family_made_in_parts_reads_as_the_library_makes_it() -> None:
    registry = CollectorRegistry()
    registry.register(ManyLabels())
    metrics = await MetricsServer.open(ManyLabels(), "127.0.0.1", 0)
    assert (await ask(metrics))[1] == generate_latest(registry).decode()
    await metrics.close()
