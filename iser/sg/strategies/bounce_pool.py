"""Copy through slots that are registered once: no registration and no invalidation for each command."""

from __future__ import annotations

from typing import ClassVar, Final

from iser.sg.pool import size_class
from iser.sg.registration import Direction, Registration, SlotRegistration
from iser.sg.sglist import SgList
from iser.sg.strategies.base import FallbackReason, Strategy

__all__ = ["MAX_SLOT", "BouncePooled"]

MAX_SLOT: Final = 8 << 20  # bytes


class BouncePooled(Strategy):
    """A copy under a long-lived key, as userspace storage does with small data."""

    name: ClassVar[str] = "bounce_pool"
    copies: ClassVar[bool] = True
    long_lived: ClassVar[bool] = True

    def refuses(self, sg: SgList, direction: Direction) -> FallbackReason | None:
        """More bytes than a slot may have."""
        attributes = self.resources.attributes
        size = size_class(sg.length)
        too_large = size > MAX_SLOT or size // attributes.page_size >= attributes.max_page_list
        return FallbackReason.OVERSIZE if too_large else None

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """A slot; a write's data is copied now, a read's when it is released."""
        registration = SlotRegistration(sg, direction, self.resources.slots)
        if direction is Direction.WRITE:
            self.resources.counters.bytes_copied += sg.length
        return registration
