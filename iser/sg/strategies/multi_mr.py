"""Several keys for one list, one for each stretch without gaps: what a protocol with room for them could do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.strategies.base import Resources
from iser.sg.strategies.frwr import PAGE_ENTRY_BYTES
from iser.sg.strategies.split import runs

__all__ = ["DESCRIPTOR_BYTES", "MultiMr"]

DESCRIPTOR_BYTES = 16  # address, key and length of one registration, as it travels


class MultiMr:
    """Not for iSER, whose header has room for one key a direction; the benchmark's own protocol uses it."""

    name: ClassVar[str] = "multi_mr"

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def register(self, sg: SgList, direction: Direction) -> list[Registration]:
        """A registration for each stretch, in order; for several where the device joins no more pieces.

        Raises PoolEmpty, with nothing taken, and ResourceError.
        """
        counters = self.resources.counters
        taken: list[Registration] = []
        try:
            for run in self._pieces(sg):
                taken.append(Registration(run, direction, self.resources.page_lists))
                counters.list_entries += run.blocks
                counters.list_bytes += PAGE_ENTRY_BYTES * run.blocks + DESCRIPTOR_BYTES
        except BaseException:
            self.release(taken)
            raise
        counters.registrations += len(taken)
        counters.stags += len(taken)
        counters.work_requests += len(taken)
        counters.by_strategy[self.name] += 1
        return taken

    def _pieces(self, sg: SgList) -> Iterator[SgList]:
        most = self.resources.attributes.max_fragments
        for run in runs(sg, sector=1):
            for at in range(0, len(run), most):
                end = at + most
                yield run if len(run) <= most else SgList(run.views[at:end], run.addresses[at:end], run.lengths[at:end])

    def release(self, registrations: list[Registration]) -> None:
        """Take them all back."""
        for registration in registrations:
            registration.release(0)
