"""One registered list: what the peer is told of it, what is posted for it, and how it is taken back."""

from __future__ import annotations

from enum import Enum

from iser.rdma.api import Access, MemoryRegion, RegMr, inc_rkey
from iser.sg.pool import BouncePool, RegionPool
from iser.sg.sglist import SgList

__all__ = ["Direction", "Registration"]


class Direction(Enum):
    """Whose memory the data ends in.  The value is the access that the peer gets.

    READ is a SCSI read (the peer writes to us), WRITE a SCSI write (the peer reads from us).
    """

    READ = Access.LOCAL_WRITE | Access.REMOTE_WRITE
    WRITE = Access.REMOTE_READ


class Registration:
    """``rkey`` and ``iova`` go into the iSER header; ``work`` is posted ahead of the command.

    ``release`` must be called exactly once, when the peer can no longer use the key.
    """

    __slots__ = ("_bounce", "_bounces", "_pool", "_sg", "iova", "length", "region", "rkey", "work")

    def __init__(self, sg: SgList, direction: Direction, pool: RegionPool) -> None:
        self.region: MemoryRegion = pool.take()
        self._pool = pool
        self._sg: SgList | None = None
        self._bounce: memoryview | None = None
        self._bounces: BouncePool | None = None
        self._map(sg, direction)

    def _map(self, sg: SgList, direction: Direction) -> None:
        region = self.region
        try:
            region.map_sg(sg)
        except BaseException:
            self._pool.give(region)
            raise
        self.rkey = inc_rkey(region.rkey)
        self.iova = region.iova
        self.length = region.length
        self.work = RegMr(None, region, self.rkey, direction.value)

    @classmethod
    def bounced(cls, sg: SgList, direction: Direction, pool: RegionPool, bounces: BouncePool) -> Registration:
        """Register memory of the bounce pool in place of ``sg``, copying a write's data into it now."""
        memory = bounces.take(sg.length)
        try:
            window = memory[: sg.length]
            self = cls(SgList.of(window, writable=True), direction, pool)
        except BaseException:
            bounces.give(memory)
            raise
        self._bounce, self._bounces = memory, bounces
        if direction is Direction.READ:
            self._sg = sg
        else:
            copy_into(window, sg)
        return self

    def release(self, transferred: int) -> int:
        """Give everything back; copy the first ``transferred`` bytes of a bounced read (0 after a failure) out.

        Returns the bytes copied.
        """
        copied = 0
        if self._bounce is not None and self._bounces is not None:
            if self._sg is not None and transferred:
                copied = min(transferred, self._sg.length)
                self._sg.scatter(self._bounce[:copied])
            self._bounces.give(self._bounce)
        self._sg = self._bounce = None
        self._pool.give(self.region)
        return copied


def copy_into(window: memoryview, sg: SgList) -> None:
    """Gather ``sg`` into ``window``, which is as long."""
    at = 0
    for view, length in zip(sg.views, sg.lengths, strict=True):
        window[at : at + length] = view
        at += length
