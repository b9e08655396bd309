"""Bounded pools of memory regions and of bounce memory, one set for each connection."""

from __future__ import annotations

from typing import Final

from iser.errors import ResourceError
from iser.rdma.api import MemoryRegion, MrType, ProtectionDomain
from iser.sg.counters import RegistrationCounters

__all__ = ["MAX_IDLE_BOUNCE", "BouncePool", "RegionPool"]

MAX_IDLE_BOUNCE: Final = 32 << 20  # bytes of bounce memory kept for the next command


class RegionPool:
    """Free regions of one kind; grows on demand up to ``limit``.  ``in_use`` and ``high_water`` count regions."""

    __slots__ = ("_free", "_kind", "_limit", "_pd", "high_water", "in_use", "max_num_sg")

    def __init__(self, pd: ProtectionDomain, kind: MrType, max_num_sg: int, limit: int) -> None:
        self._pd = pd
        self._kind = kind
        self.max_num_sg = max_num_sg
        self._limit = limit
        self._free: list[MemoryRegion] = []
        self.in_use = 0
        self.high_water = 0

    def take(self) -> MemoryRegion:
        """A free region.  Raises ResourceError when all ``limit`` are in use."""
        if self.in_use >= self._limit:
            raise ResourceError(
                f"all {self._limit} memory regions for a {self._kind.value} are in use; lower the queue depth"
            )
        region = self._free.pop() if self._free else self._pd.alloc_mr(self._kind, self.max_num_sg)
        self.in_use += 1
        self.high_water = max(self.high_water, self.in_use)
        return region

    def give(self, region: MemoryRegion) -> None:
        """Take a region back that is free, or will be when the next registration is carried out."""
        self.in_use -= 1
        self._free.append(region)


class BouncePool:
    """Page-aligned memory to copy through, by power-of-two size; what is idle beyond MAX_IDLE_BOUNCE is let go."""

    __slots__ = ("_counters", "_free", "_idle", "_pd", "high_water", "in_use")

    def __init__(self, pd: ProtectionDomain, counters: RegistrationCounters) -> None:
        self._pd = pd
        self._counters = counters
        self._free: dict[int, list[memoryview]] = {}
        self._idle = 0
        self.in_use = 0
        self.high_water = 0

    def take(self, length: int) -> memoryview:
        """At least ``length`` bytes; give the very same object back."""
        size = max(4096, 1 << (length - 1).bit_length())
        idle = self._free.get(size)
        if idle:
            self._idle -= size
            memory = idle.pop()
        else:
            memory = self._pd.alloc_buffer(size)
        self._counters.allocations += -(-length // 4096)
        self.in_use += size
        self.high_water = max(self.high_water, self.in_use)
        return memory

    def give(self, memory: memoryview) -> None:
        """Take memory back."""
        size = len(memory)
        self.in_use -= size
        if self._idle + size <= MAX_IDLE_BOUNCE:
            self._free.setdefault(size, []).append(memory)
            self._idle += size
