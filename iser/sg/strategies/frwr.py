"""Fast registration by page list: the list without gaps, zero copy."""

from __future__ import annotations

from typing import ClassVar

from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.strategies.base import FallbackReason, Strategy

__all__ = ["PAGE_ENTRY_BYTES", "Frwr"]

PAGE_ENTRY_BYTES = 8  # a page address


class Frwr(Strategy):
    """A page list, for lists that have no gap."""

    name: ClassVar[str] = "frwr"

    def refuses(self, sg: SgList, direction: Direction) -> FallbackReason | None:
        """Gaps, more blocks than a region holds, or more pieces than the device can join."""
        if sg.gappy:
            return FallbackReason.UNALIGNED
        resources = self.resources
        if len(sg.views) > resources.attributes.max_fragments:
            return FallbackReason.FRAGMENTS
        return FallbackReason.OVERSIZE if sg.blocks > resources.page_lists.max_num_sg else None

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """One region over the caller's own memory."""
        resources = self.resources
        registration = Registration(sg, direction, resources.page_lists)
        blocks, counters = sg.blocks, resources.counters
        counters.list_entries += blocks
        counters.list_bytes += PAGE_ENTRY_BYTES * blocks
        return registration
