"""Indirect registration: one STag over elements of any address and length, zero copy."""

from __future__ import annotations

from typing import ClassVar

from iser.rdma.api import DeviceCap
from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.strategies.base import FallbackReason, Resources, Strategy

__all__ = ["ELEMENT_BYTES", "Indirect"]

ELEMENT_BYTES = 16  # byte count, key and address; the list is padded to four elements


class Indirect(Strategy):
    """An SG list, for any list that fits the device's table."""

    name: ClassVar[str] = "indirect"

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        # An operation on flags costs a microsecond: once is enough.
        self._able = bool(resources.attributes.caps & DeviceCap.SG_GAPS_REG)

    def refuses(self, sg: SgList, direction: Direction) -> FallbackReason | None:
        """No such regions on this device, or too many elements."""
        if not self._able:
            return FallbackReason.NO_CAP
        return FallbackReason.OVERSIZE if len(sg.views) > self.resources.sg_lists.max_num_sg else None

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """One region over the caller's own memory."""
        resources = self.resources
        registration = Registration(sg, direction, resources.sg_lists)
        elements, counters = len(sg.views), resources.counters
        counters.list_entries += elements
        counters.list_bytes += ELEMENT_BYTES * ((elements + 3) & ~3)
        return registration
