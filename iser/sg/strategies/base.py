"""What a strategy is, and what it works with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar

from iser.rdma.api import DeviceAttributes, MrType, ProtectionDomain
from iser.sg.counters import RegistrationCounters
from iser.sg.pool import BouncePool, RegionPool
from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.shape import Shape

__all__ = ["FallbackReason", "Resources", "Strategy"]


class FallbackReason(Enum):
    """Why a strategy cannot serve a list."""

    UNALIGNED = "unaligned"
    OVERSIZE = "oversize"
    NO_CAP = "no_cap"
    POOL_EMPTY = "pool_empty"
    OVERLAP = "overlap"


class Resources:
    """Device limits and pools of one connection.  ``sg_tablesize`` caps the entries of a list, ``depth`` the lists."""

    __slots__ = ("attributes", "bounce", "counters", "page_lists", "sg_lists", "sg_tablesize")

    def __init__(
        self, pd: ProtectionDomain, attributes: DeviceAttributes, depth: int, sg_tablesize: int, max_bytes: int
    ) -> None:
        self.attributes = attributes
        self.counters = RegistrationCounters()
        # One entry more than the bytes need: a list that begins off a block boundary touches one block more.
        blocks = min(attributes.max_page_list, -(-max_bytes // attributes.page_size) + 1)
        self.sg_tablesize = min(attributes.max_sg_list, sg_tablesize)
        self.page_lists = RegionPool(pd, MrType.MEM_REG, blocks, depth)
        self.sg_lists = RegionPool(pd, MrType.SG_GAPS, self.sg_tablesize, depth)
        self.bounce = BouncePool(pd, self.counters)

    @property
    def max_page_list(self) -> int:
        """Blocks that a page-list region of this connection can hold."""
        return self.page_lists.max_num_sg


class Strategy(ABC):
    """One way to turn a list into one STag."""

    name: ClassVar[str]

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    @abstractmethod
    def refuses(self, sg: SgList, shape: Shape) -> FallbackReason | None:
        """Why this list cannot be served, or None."""

    @abstractmethod
    def register(self, sg: SgList, shape: Shape, direction: Direction) -> Registration:
        """Register a list that :meth:`refuses` let pass, and count the entries.  Raises ResourceError."""
