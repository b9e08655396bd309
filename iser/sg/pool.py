"""Bounded pools of memory regions and of memory to copy through, one set for each connection.

A pool grows on demand.  When it is empty it raises PoolEmpty, and the caller waits in line for its turn: resources come
back with the answers to the commands that hold them.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from iser.errors import PoolEmpty, UsageError
from iser.rdma.address import address_of
from iser.rdma.api import DeviceAttributes, DeviceCap, MemoryRegion, MrType, ProtectionDomain
from iser.sg.counters import RegistrationCounters
from iser.sg.sglist import SgList

__all__ = [
    "MAX_ARENAS",
    "MAX_BOUNCE",
    "MAX_IDLE_BOUNCE",
    "PAGE",
    "Arena",
    "ArenaPool",
    "BouncePool",
    "RegionPool",
    "Slot",
    "SlotPool",
    "size_class",
]

PAGE: Final = 4096
MAX_IDLE_BOUNCE: Final = 32 << 20  # bytes of bounce memory kept for the next command
MAX_BOUNCE: Final = 256 << 20  # bytes of one connection's bounce memory, and of its slots
MAX_ARENAS: Final = 64  # objects whose whole memory one connection keeps registered


class RegionPool:
    """Free regions of one kind; grows on demand up to ``limit``.  ``in_use`` and ``high_water`` count regions."""

    __slots__ = ("_free", "_kind", "_limit", "_pd", "high_water", "in_use", "max_num_sg", "page_size")

    def __init__(self, pd: ProtectionDomain, kind: MrType, max_num_sg: int, limit: int, page_size: int = PAGE) -> None:
        self._pd = pd
        self._kind = kind
        self.max_num_sg = max_num_sg
        self.page_size = page_size
        self._limit = limit
        # The longest idle first: where keys never change, a late access of the peer is not to hit the next command.
        self._free: deque[MemoryRegion] = deque()
        self.in_use = 0
        self.high_water = 0

    def take(self) -> MemoryRegion:
        """A free region.  Raises PoolEmpty when all ``limit`` are in use."""
        in_use = self.in_use
        if in_use >= self._limit:
            raise PoolEmpty(
                f"all {self._limit} memory regions for a {self._kind.value} are in use; lower the queue depth"
            )
        region = self._free.popleft() if self._free else self._pd.alloc_mr(self._kind, self.max_num_sg)
        self.in_use = in_use = in_use + 1
        if in_use > self.high_water:  # noqa: PLR1730 - max() is a call for each I/O
            self.high_water = in_use
        return region

    def give(self, region: MemoryRegion) -> None:
        """Take a region back that is free, or will be when the next registration is carried out."""
        self.in_use -= 1
        self._free.append(region)


def size_class(length: int) -> int:
    """The power of two, a page at least, that holds ``length`` bytes."""
    return max(PAGE, 1 << (length - 1).bit_length())


class BouncePool:
    """Page-aligned memory to copy through, up to ``limit`` bytes.

    With ``keep`` it comes in powers of two and waits for the next command, but for what is idle beyond MAX_IDLE_BOUNCE.
    Without, each command allocates its pages and frees them, as kernels do.  ``counters.allocations`` counts pages that
    were not there before.
    """

    __slots__ = ("_counters", "_free", "_idle", "_limit", "_pd", "high_water", "in_use", "keep")

    def __init__(self, pd: ProtectionDomain, counters: RegistrationCounters, limit: int = MAX_BOUNCE) -> None:
        self._pd = pd
        self._counters = counters
        self._limit = limit
        self._free: dict[int, list[memoryview]] = {}
        self._idle = 0
        self.keep = True
        self.in_use = 0
        self.high_water = 0

    def take(self, length: int) -> memoryview:
        """At least ``length`` bytes; give the very same object back.  Raises PoolEmpty."""
        size = size_class(length) if self.keep else -(-length // PAGE) * PAGE
        if self.in_use and self.in_use + size > self._limit:
            raise PoolEmpty(f"all {self._limit} bytes of bounce memory are in use; lower the queue depth")
        idle = self._free.get(size) if self.keep else None
        if idle:
            self._idle -= size
            memory = idle.pop()
        else:
            memory = self._pd.alloc_buffer(size) if self.keep else _pages(size)
            self._counters.allocations += size // PAGE
        self.in_use += size
        self.high_water = max(self.high_water, self.in_use)
        return memory

    def give(self, memory: memoryview) -> None:
        """Take memory back."""
        size = len(memory)
        self.in_use -= size
        if self.keep and size == size_class(size) and self._idle + size <= MAX_IDLE_BOUNCE:
            self._free.setdefault(size, []).append(memory)
            self._idle += size


def _pages(size: int) -> memoryview:
    """``size`` bytes that begin at a page, from the allocator of the process."""
    memory = memoryview(bytearray(size + PAGE - 1))
    start = -address_of(memory) % PAGE
    return memory[start : start + size]


class Slot:
    """Memory of the pool with a region of its own, which is registered when it is first used."""

    __slots__ = ("memory", "region")

    def __init__(self, memory: memoryview, region: MemoryRegion) -> None:
        self.memory = memory
        self.region = region


class SlotPool:
    """Slots to copy through, by power-of-two size; what was made, up to ``limit`` bytes, stays registered."""

    __slots__ = ("_counters", "_free", "_limit", "_made", "_pd", "high_water", "in_use")

    def __init__(self, pd: ProtectionDomain, counters: RegistrationCounters, limit: int = MAX_BOUNCE) -> None:
        self._pd = pd
        self._counters = counters
        self._limit = limit
        self._free: dict[int, list[Slot]] = {}
        self._made = 0
        self.in_use = 0
        self.high_water = 0

    def take(self, length: int) -> Slot:
        """A slot of at least ``length`` bytes.  Raises PoolEmpty."""
        size = size_class(length)
        idle = self._free.get(size)
        slot = idle.pop() if idle else self._grow(size)
        self.in_use += size
        self.high_water = max(self.high_water, self.in_use)
        return slot

    def give(self, slot: Slot) -> None:
        """Take a slot back."""
        size = len(slot.memory)
        self.in_use -= size
        self._free.setdefault(size, []).append(slot)

    def _grow(self, size: int) -> Slot:
        if self._made + size > self._limit:
            # Larger idle slots serve as well; idle smaller ones keep their memory, as their keys are valid.
            for larger in sorted(self._free):
                if larger > size and self._free[larger]:
                    self.in_use += larger - size
                    return self._free[larger].pop()
            raise PoolEmpty(f"all {self._limit} bytes of registered slots are taken; lower the queue depth")
        region = self._pd.alloc_mr(MrType.MEM_REG, size // PAGE + 1)
        memory = self._pd.alloc_buffer(size)
        region.map_sg(SgList.of(memory, writable=True))
        self._made += size
        self._counters.allocations += size // PAGE
        return Slot(memory, region)


class Arena:
    """An object's whole memory, from ``address`` on, under one key, and how many registrations use it now."""

    __slots__ = ("address", "memory", "region", "users")

    def __init__(self, memory: memoryview, address: int, region: MemoryRegion) -> None:
        self.memory = memory
        self.address = address
        self.region = region
        self.users = 0


class ArenaPool:
    """Objects that lists were cut from, each registered as a whole until the session ends; up to MAX_ARENAS of them."""

    __slots__ = ("_attributes", "_known", "_pd", "high_water", "in_use")

    def __init__(self, pd: ProtectionDomain, attributes: DeviceAttributes) -> None:
        self._pd = pd
        self._attributes = attributes
        self._known: dict[int, Arena] = {}
        self.in_use = 0
        self.high_water = 0

    def has_room(self, view: memoryview) -> bool:
        """True when the object of ``view`` is known, or may become so."""
        return id(view.obj) in self._known or len(self._known) < MAX_ARENAS

    def fits(self, view: memoryview) -> bool:
        """True when one region can hold all of the object of ``view``."""
        if id(view.obj) in self._known:
            return True
        try:
            whole = SgList.of(view.obj, writable=False)  # type: ignore[arg-type]  # it has exported a buffer
        except UsageError:
            return False
        attributes = self._attributes
        by_pages = not attributes.caps & DeviceCap.SG_GAPS_REG
        return whole.length <= attributes.max_mr_bytes and not (by_pages and whole.blocks > attributes.max_page_list)

    def take(self, view: memoryview) -> Arena:
        """The arena of the object that ``view`` is a part of; its region is mapped, but maybe not valid yet."""
        arena = self._known.get(id(view.obj))
        if arena is None:
            arena = self._known[id(view.obj)] = self._make(view)
        arena.users += 1
        self.in_use += 1
        self.high_water = max(self.high_water, self.in_use)
        return arena

    def give(self, arena: Arena) -> None:
        """One user less."""
        arena.users -= 1
        self.in_use -= 1

    def _make(self, view: memoryview) -> Arena:
        whole = SgList.of(view.obj, writable=False)  # type: ignore[arg-type]  # it has exported a buffer
        if self._attributes.caps & DeviceCap.SG_GAPS_REG:
            region = self._pd.alloc_mr(MrType.SG_GAPS, 1)
        else:
            region = self._pd.alloc_mr(MrType.MEM_REG, whole.blocks)
        region.map_sg(whole)
        # The view keeps the object alive, so that its id names nothing else.
        return Arena(whole.views[0], whole.addresses[0], region)
