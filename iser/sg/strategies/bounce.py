"""Bounce: copy through page-aligned memory of our own, registered for each command.

Under the strategy of this name that memory is allocated for each command and freed with it, as kernels do that.  Where
another strategy falls back to it, it is kept for the next command.
"""

from __future__ import annotations

from typing import ClassVar

from iser.sg.registration import BounceRegistration, Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.strategies.base import BOUNCE, FallbackReason, Strategy
from iser.sg.strategies.frwr import PAGE_ENTRY_BYTES

__all__ = ["Bounce"]


class Bounce(Strategy):
    """A copy, for every list that fits a region."""

    name: ClassVar[str] = BOUNCE
    copies: ClassVar[bool] = True

    def refuses(self, sg: SgList, direction: Direction) -> FallbackReason | None:
        """More bytes than a page list holds."""
        return FallbackReason.OVERSIZE if self._blocks(sg) > self.resources.max_page_list else None

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """One region over bounce memory; a write's data is copied now, a read's when it is released."""
        resources = self.resources
        registration = BounceRegistration(sg, direction, resources.page_lists, resources.bounce)
        counters = resources.counters
        blocks = self._blocks(sg)
        counters.list_entries += blocks
        counters.list_bytes += PAGE_ENTRY_BYTES * blocks
        if direction is Direction.WRITE:
            counters.bytes_copied += sg.length
        return registration

    def _blocks(self, sg: SgList) -> int:
        return -(-sg.length // self.resources.attributes.page_size)
