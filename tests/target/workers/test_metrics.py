"""Tests of target.workers.metrics."""

from __future__ import annotations

import os
import signal

from prometheus_client.parser import text_string_to_metric_families

from target.metrics import REQUEST_TIMEOUT, MetricsServer
from target.workers import metrics_of
from target.workers.worker import ANSWER_TIMEOUT
from tests.target.peer import until
from tests.target.test_metrics import ask
from tests.target.workers.site import ONE, TWO, check_data, place, supervised


def test_a_worker_that_hangs_does_not_use_up_the_time_of_a_scrape() -> None:
    assert ANSWER_TIMEOUT < REQUEST_TIMEOUT


async def test_all_workers_are_at_one_endpoint_with_their_numbers() -> None:
    async with supervised() as supervisor:
        for name in (ONE, TWO):
            await check_data(place(supervisor, "tcp", 1), name)
        metrics = await MetricsServer.open(metrics_of(supervisor), "127.0.0.1", 0)
        _, text = await ask(metrics)
        families = {family.name: family for family in text_string_to_metric_families(text)}

        def values(family: str, **labels: str) -> dict[str, float]:
            return {
                sample.labels["worker"]: sample.value
                for sample in families[family].samples
                if labels.items() <= sample.labels.items() and not sample.name.endswith(("_bucket", "_sum", "_created"))
            }

        assert values("iser_worker_up") == {"1": 1, "2": 1}
        assert values("iser_target_logins") == {"1": 1, "2": 1}
        assert values("iser_target_logins_redirected") == {"1": 1, "2": 0}
        assert values("iser_lun_bytes", target=TWO, direction="write") == {"2": 8192}
        assert values("iser_lun_latency_seconds", target=ONE)["1"] >= 2
        for line in ("# TYPE iser_target_sessions gauge", "# HELP iser_target_logins_total Sessions that began."):
            assert text.count(line) == 1  # as one process would say it
        worker = supervisor.slots[1].worker
        assert worker
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: supervisor.slots[1].worker is None)
        _, text = await ask(metrics)
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert values("iser_worker_up") == {"1": 1, "2": 0}
        assert values("iser_target_sessions") == {"1": 0}
        await metrics.close()
