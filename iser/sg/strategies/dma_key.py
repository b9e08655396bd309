"""A key over everything: no registration for each command, and no protection either."""

from __future__ import annotations

from typing import ClassVar

from iser.sg.registration import ArenaRegistration, Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.strategies.base import AUTO, FallbackReason, Strategy

__all__ = ["DmaKey"]


class DmaKey(Strategy):
    """One element under a long-lived key, as kernels do with the key of all memory.

    Here the key is that of the whole object which the element is a part of, registered when first seen: the target can
    reach all of that object until the session ends.  Unsafe, hence never chosen but by name.
    """

    name: ClassVar[str] = "dma_key"
    long_lived: ClassVar[bool] = True
    fallback: ClassVar[str] = AUTO

    def refuses(self, sg: SgList, direction: Direction) -> FallbackReason | None:
        """Several elements, an object that no region holds, or too many objects."""
        if len(sg) > 1:
            return FallbackReason.UNALIGNED
        arenas = self.resources.arenas
        view = sg.views[0]
        if not arenas.has_room(view):
            return FallbackReason.POOL_EMPTY
        return None if arenas.fits(view) else FallbackReason.OVERSIZE

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """The key of the object."""
        return ArenaRegistration(sg, self.resources.arenas)
