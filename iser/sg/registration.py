"""One registered list: what the peer is told of it, what is posted for it, and how it is taken back."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final

from iser.rdma.api import Access, MemoryRegion, RegMr
from iser.sg.pool import Arena, ArenaPool, BouncePool, RegionPool, Slot, SlotPool
from iser.sg.sglist import SgList

__all__ = [
    "ArenaRegistration",
    "BounceRegistration",
    "Direction",
    "Registration",
    "SlotRegistration",
    "copy_into",
]

_JOINED: Final = 2048  # bytes of a piece, on average, from which on a loop over pieces costs less than joining them
_ANY_ACCESS: Final = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ


class Direction(Enum):
    """Whose memory the data ends in.  ``access`` is what the peer gets.

    READ is a SCSI read (the peer writes to us), WRITE a SCSI write (the peer reads from us).
    """

    READ = Access.LOCAL_WRITE | Access.REMOTE_WRITE
    WRITE = Access.REMOTE_READ

    def __init__(self, access: Access) -> None:
        self.access = access  # as ``value``, which takes Python a call


class Registration:
    """``rkey`` and ``iova`` go into the iSER header; ``work`` is posted, in order, ahead of the command.

    ``long_lived`` says that the key stays valid after :meth:`release`, and must not be invalidated for the command.
    ``release`` must be called exactly once, when the peer can no longer use the key or, where that is long-lived, was
    told that the command is over.
    """

    __slots__ = ("_pool", "iova", "length", "region", "rkey", "work")

    long_lived: ClassVar[bool] = False
    work: tuple[RegMr, ...]

    def __init__(self, sg: SgList, direction: Direction, pool: RegionPool) -> None:
        region = pool.take()
        try:
            region.map_sg(sg, 0, pool.page_size)
            access = direction.access
            key = region.next_key(access)
        except BaseException:
            pool.give(region)
            raise
        self._pool = pool
        self.region: MemoryRegion = region
        self.rkey = key
        self.iova = region.iova
        self.length = region.length
        self.work = (RegMr(None, region, key, access),)

    def release(self, transferred: int) -> int:
        """Give everything back; copy the first ``transferred`` bytes of a copied read (0 after a failure) out.

        Returns the bytes copied.
        """
        self._pool.give(self.region)
        return 0


class BounceRegistration(Registration):
    """Memory of the bounce pool in place of a list; a write's data is copied into it now."""

    __slots__ = ("_bounces", "_memory", "_sg")

    def __init__(self, sg: SgList, direction: Direction, pool: RegionPool, bounces: BouncePool) -> None:
        memory = bounces.take(sg.length)
        try:
            window = memory[: sg.length]
            super().__init__(SgList.of(window, writable=True), direction, pool)
        except BaseException:
            bounces.give(memory)
            raise
        self._memory, self._bounces = memory, bounces
        self._sg: SgList | None = sg if direction is Direction.READ else None
        if direction is Direction.WRITE:
            copy_into(window, sg)

    def release(self, transferred: int) -> int:
        """See :class:`Registration`."""
        copied = 0
        if self._sg is not None and transferred:
            copied = min(transferred, self._sg.length)
            self._sg.scatter(self._memory[:copied])
        self._sg = None
        self._bounces.give(self._memory)
        super().release(transferred)
        return copied


class SlotRegistration(Registration):
    """A copy through a slot whose key was registered once, and stays."""

    __slots__ = ("_sg", "_slot", "_slots")

    long_lived: ClassVar[bool] = True

    def __init__(self, sg: SgList, direction: Direction, slots: SlotPool) -> None:
        self._slots = slots
        self._slot: Slot = slots.take(sg.length)
        self._sg: SgList | None = sg if direction is Direction.READ else None
        self.region = self._slot.region
        self.length = sg.length
        self.iova = self.region.iova
        if direction is Direction.WRITE:
            copy_into(self._slot.memory[: sg.length], sg)
        if self.region.valid:
            self.rkey = self.region.rkey
            self.work = ()
        else:
            self.rkey = self.region.next_key(_ANY_ACCESS)
            self.work = (RegMr(None, self.region, self.rkey, _ANY_ACCESS),)

    def release(self, transferred: int) -> int:
        """See :class:`Registration`."""
        copied = 0
        if self._sg is not None and transferred:
            copied = min(transferred, self._sg.length)
            self._sg.scatter(self._slot.memory[:copied])
        self._sg = None
        self._slots.give(self._slot)
        return copied


class ArenaRegistration(Registration):
    """One piece of an object whose whole memory was registered once, and stays so: the unsafe global key."""

    __slots__ = ("_arena", "_arenas")

    long_lived: ClassVar[bool] = True

    def __init__(self, sg: SgList, arenas: ArenaPool) -> None:
        self._arenas = arenas
        self._arena: Arena = arenas.take(sg.views[0])
        region = self._arena.region
        self.region = region
        self.length = sg.length
        # Not the address itself: some devices count from the start of the region.
        self.iova = region.iova + (sg.addresses[0] - self._arena.address)
        if region.valid:
            self.rkey = region.rkey
            self.work = ()
            return
        access = Access.REMOTE_READ if self._arena.memory.readonly else _ANY_ACCESS
        self.rkey = region.next_key(access)
        self.work = (RegMr(None, region, self.rkey, access),)

    def release(self, transferred: int) -> int:
        """See :class:`Registration`; nothing was copied."""
        self._arenas.give(self._arena)
        return 0


def copy_into(window: memoryview, sg: SgList) -> None:
    """Gather ``sg`` into ``window``, which is as long."""
    views = sg.views
    if len(views) == 1:
        window[:] = views[0]
    elif sg.length < _JOINED * len(views):
        # Joined first, the bytes are copied twice, which costs less than a loop over small pieces here.
        window[:] = b"".join(views)
    else:
        start = 0
        for view in views:
            end = start + len(view)
            window[start:end] = view
            start = end
