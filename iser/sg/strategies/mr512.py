"""A page list of 512-byte pages: every list of sectors, zero copy, at up to eight times the entries."""

from __future__ import annotations

from typing import ClassVar

from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.shape import SECTOR, shape_of
from iser.sg.strategies.base import FallbackReason, Strategy
from iser.sg.strategies.frwr import PAGE_ENTRY_BYTES

__all__ = ["Mr512"]


class Mr512(Strategy):
    """For lists without gaps at 512 bytes, on a device that has pages as small."""

    name: ClassVar[str] = "mr512"

    def refuses(self, sg: SgList, direction: Direction) -> FallbackReason | None:
        """No such pages, gaps at 512 bytes, more pieces than the device joins, or more sectors than a region holds."""
        resources = self.resources
        if not resources.attributes.page_size_cap & SECTOR:
            return FallbackReason.NO_CAP
        sectors = shape_of(sg, SECTOR)
        if sectors.gaps:
            return FallbackReason.UNALIGNED
        if len(sg) > resources.attributes.max_fragments:
            return FallbackReason.FRAGMENTS
        return FallbackReason.OVERSIZE if sectors.blocks > resources.sector_lists.max_num_sg else None

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """One region over the caller's own memory."""
        registration = Registration(sg, direction, self.resources.sector_lists)
        entries = shape_of(sg, SECTOR).blocks
        self.resources.counters.list_entries += entries
        self.resources.counters.list_bytes += PAGE_ENTRY_BYTES * entries
        return registration
