"""Fast registration by page list: the list without gaps, zero copy."""

from __future__ import annotations

from typing import ClassVar

from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.shape import Shape
from iser.sg.strategies.base import FallbackReason, Strategy

__all__ = ["PAGE_ENTRY_BYTES", "Frwr"]

PAGE_ENTRY_BYTES = 8  # a page address


class Frwr(Strategy):
    """A page list, for lists that have no gap."""

    name: ClassVar[str] = "frwr"

    def refuses(self, sg: SgList, shape: Shape, direction: Direction) -> FallbackReason | None:
        """Gaps, more blocks than a region holds, or more pieces than the device can join."""
        if shape.gaps:
            return FallbackReason.UNALIGNED
        if len(sg) > self.resources.attributes.max_fragments:
            return FallbackReason.FRAGMENTS
        return FallbackReason.OVERSIZE if shape.blocks > self.resources.max_page_list else None

    def register(self, sg: SgList, shape: Shape, direction: Direction) -> Registration:
        """One region over the caller's own memory."""
        registration = Registration(sg, direction, self.resources.page_lists)
        self.resources.counters.list_entries += shape.blocks
        self.resources.counters.list_bytes += PAGE_ENTRY_BYTES * shape.blocks
        return registration
