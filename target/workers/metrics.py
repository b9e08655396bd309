"""The metrics of all workers at one endpoint, each sample with the number of its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

from target.metrics import SAMPLES_AT_ONCE, RemoteCollector, TargetCollector
from target.server import TargetServer
from target.workers.messages import Json
from target.workers.supervisor import Supervisor

__all__ = ["WorkersCollector", "collected"]

_LABEL: Final = "worker"


async def collected(server: TargetServer) -> Json:
    """What a worker counted, as JSON has it: families, of name, words, type and samples.

    Made some samples at a time, as the loop that makes it serves I/O too.
    """
    families = []
    for family in TargetCollector(server).collect():
        samples: list[Json] = []
        for sample in family.samples:
            samples.append([sample.name, sample.labels, sample.value])
            if len(samples) % SAMPLES_AT_ONCE == 0:
                await asyncio.sleep(0)
        families.append([family.name, family.documentation, family.type, samples])
        await asyncio.sleep(0)
    return families


class WorkersCollector(RemoteCollector):
    """What the workers of ``supervisor`` counted, and how they are."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def gather(self) -> Iterable[Metric]:
        """See :class:`target.metrics.RemoteCollector`."""
        answers = await self._supervisor.ask_all("metrics")
        merged: dict[str, Metric] = {}
        for number, families in sorted(answers.items()):
            for name, words, kind, samples in families:
                family = merged.setdefault(name, Metric(name, words, kind))
                label = {_LABEL: str(number)}
                family.samples += [Sample(each, {**label, **labels}, value) for each, labels, value in samples]
        return [*self._own(answers.keys()), *merged.values()]

    def _own(self, answering: Iterable[int]) -> Iterable[Metric]:
        up = GaugeMetricFamily("iser_worker_up", "Whether a worker answers.", labels=(_LABEL,))
        restarts = CounterMetricFamily(
            "iser_worker_restarts", "Times that a worker was started again after it had ended.", labels=(_LABEL,)
        )
        for slot in self._supervisor.slots:
            up.add_metric((str(slot.number),), slot.number in answering)
            restarts.add_metric((str(slot.number),), slot.restarts)
        return up, restarts
