"""What a strategy is, and what it works with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar, Final

from iser.rdma.api import DeviceAttributes, MrType, ProtectionDomain
from iser.sg.counters import RegistrationCounters
from iser.sg.pool import MAX_BOUNCE, ArenaPool, BouncePool, RegionPool, SlotPool
from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.shape import SECTOR

__all__ = ["AUTO", "BOUNCE", "FallbackReason", "Resources", "Strategy"]

AUTO: Final = "auto"
BOUNCE: Final = "bounce"


class FallbackReason(Enum):
    """Why a strategy cannot serve a list."""

    UNALIGNED = "unaligned"
    OVERSIZE = "oversize"
    NO_CAP = "no_cap"
    POOL_EMPTY = "pool_empty"
    OVERLAP = "overlap"
    FRAGMENTS = "fragments"


class Resources:
    """Device limits and pools of one connection.

    ``sg_tablesize`` caps the entries of a list, ``depth`` the lists of each kind that are registered at once.
    """

    __slots__ = ("arenas", "attributes", "bounce", "counters", "page_lists", "sector_lists", "sg_lists", "slots")

    def __init__(
        self,
        pd: ProtectionDomain,
        attributes: DeviceAttributes,
        depth: int,
        sg_tablesize: int,
        max_bytes: int,
        max_bounce: int = MAX_BOUNCE,
    ) -> None:
        self.attributes = attributes
        self.counters = RegistrationCounters()

        def entries(page_size: int) -> int:
            # One more than the bytes need: a list that begins off a block boundary touches one block more.
            return min(attributes.max_page_list, -(-max_bytes // page_size) + 1)

        self.page_lists = RegionPool(pd, MrType.MEM_REG, entries(attributes.page_size), depth)
        self.sector_lists = RegionPool(pd, MrType.MEM_REG, entries(SECTOR), depth, SECTOR)
        self.sg_lists = RegionPool(pd, MrType.SG_GAPS, min(attributes.max_sg_list, sg_tablesize), depth)
        self.bounce = BouncePool(pd, self.counters, max_bounce)
        self.slots = SlotPool(pd, self.counters, max_bounce)
        self.arenas = ArenaPool(pd, attributes)

    @property
    def max_page_list(self) -> int:
        """Blocks that a page-list region of this connection can hold."""
        return self.page_lists.max_num_sg

    @property
    def sg_tablesize(self) -> int:
        """Elements that an SG-list region of this connection can hold."""
        return self.sg_lists.max_num_sg


class Strategy(ABC):
    """One way to turn a list into one STag.

    ``copies`` says that the data goes through other memory, ``long_lived`` that keys outlive the command, which
    rules out that the target invalidates them.  What it refuses goes to the strategy ``fallback``.
    """

    name: ClassVar[str]
    copies: ClassVar[bool] = False
    long_lived: ClassVar[bool] = False
    fallback: ClassVar[str] = BOUNCE

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    @abstractmethod
    def refuses(self, sg: SgList, direction: Direction) -> FallbackReason | None:
        """Why this list cannot be served, or None."""

    @abstractmethod
    def register(self, sg: SgList, direction: Direction) -> Registration:
        """Register a list that :meth:`refuses` let pass, and count the entries.

        Raises PoolEmpty, with nothing taken or counted, when the list has to wait for others.
        """
