"""Protection domains of a verbs device: registered memory of our own, a cache for the rest, regions that peers see."""

from __future__ import annotations

import logging
import mmap
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from iser.errors import MemoryRegionError, ResourceError, UsageError
from iser.rdma.address import address_of
from iser.rdma.api import Access, MemoryRegion, MrType, ProtectionDomain, RegMr, ScatterList
from iser.rdma.verbs.constants import ACCESS_LOCAL_WRITE, ACCESS_REMOTE_WRITE
from iser.rdma.verbs.indirect import IndirectRegion
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.mrcache import PAGE, CachedRegion, MrCache, RawRegion
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.split import Element

__all__ = ["COPY_LIMIT", "Hold", "Slot", "VerbsMemoryRegion", "VerbsProtectionDomain"]

log = logging.getLogger("iser.rdma.verbs")

COPY_LIMIT: Final = 64 << 10  # bytes up to which copying beats registering memory for one use
MIN_SLOT: Final = 512
_SLAB: Final = 256 << 10  # bytes from which slots are cut

#: What a posted request holds until it completes: registrations and slots.
Hold = list["CachedRegion | Slot"]


class Slot:
    """Registered memory for a small message, used again and again."""

    __slots__ = ("address", "lkey", "size", "view")

    def __init__(self, view: memoryview, address: int, lkey: int) -> None:
        self.view = view
        self.size = len(view)
        self.address = address
        self.lkey = lkey


class VerbsMemoryRegion(MemoryRegion):
    """One contiguous range of addresses as an ordinary memory region, whose key the device assigns.

    A key cannot be invalidated by a work request; :class:`LocalInv` gives the registration back to the cache.  If the
    memory can be cached the device goes on honouring the key until it is evicted, so a peer that keeps a key can still
    reach the pages of that buffer.  Memory that cannot be cached (``bytearray``) is deregistered, and its key dies; so
    does every key under the option ``revoke_keys``.
    """

    __slots__ = ("_pd", "_taken", "_view", "closed")

    def __init__(self, pd: VerbsProtectionDomain) -> None:
        self.kind = MrType.MEM_REG
        self.max_num_sg = 1
        self.lkey = self.rkey = 0
        self.iova = 0
        self.length = 0
        self.access = Access(0)
        self.valid = False
        self.closed = False
        self._pd = pd
        self._view: memoryview | None = None
        self._taken: CachedRegion | None = None

    def map_sg(self, sg: ScatterList, offset: int = 0, page_size: int = PAGE) -> int:
        """See :class:`MemoryRegion`; of several elements only the first is taken."""
        if self.valid or self.closed:
            state = "closed" if self.closed else "valid"
            raise MemoryRegionError(f"region {self.rkey:#010x} is {state}; invalidate it before mapping it again")
        if not len(sg.views) or not 0 <= offset < sg.lengths[0]:
            raise MemoryRegionError(f"a list of {len(sg.views)} elements with offset {offset} maps nothing")
        if sg.lengths[0] - offset > self._pd.device.attributes.max_mr_bytes:
            raise MemoryRegionError(f"{sg.lengths[0]} bytes do not fit a region of {self._pd.device.name}")
        self.unmap()
        view = sg.views[0]
        self._view = view[offset:] if offset else view
        self.iova = sg.addresses[0] + offset
        self.length = sg.lengths[0] - offset
        return 1

    def next_key(self, access: Access) -> int:
        """Register now, as the device tells the key only then."""
        view = self._view
        if view is None:
            raise MemoryRegionError("nothing is mapped; call map_sg first")
        if access & (Access.LOCAL_WRITE | Access.REMOTE_WRITE) and view.readonly:
            raise MemoryRegionError("a read-only buffer cannot be registered for writing")
        self._give_back()
        self._taken = self._pd.take_remote(view, int(access))
        self.lkey, self.rkey = self._taken.lkey, self._taken.rkey
        self.access = access
        return self.rkey

    def register(self, wr: RegMr) -> None:
        """Carry out a RegMr.  Raises MemoryRegionError."""
        if self.closed or self.valid:
            raise MemoryRegionError(f"cannot register region {self.rkey:#010x}: it is not free; invalidate it first")
        if self._taken is None or wr.access != self.access:
            self.next_key(wr.access)
        if wr.key != self.rkey:
            raise MemoryRegionError(f"cannot register region {self.rkey:#010x} as {wr.key:#010x}; use mr.next_key()")
        self.valid = True
        self._pd.enter(self)

    def invalidate(self) -> None:
        """Make the region free; see the class for what becomes of its key."""
        if self.valid:
            self.valid = False
            self._pd.leave(self)
        self.unmap()

    def unmap(self) -> None:
        """Let go of the memory."""
        self._give_back()
        self._view = None

    def _give_back(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None:
            self._pd.cache.give(taken)

    def close(self) -> None:
        if not self.closed:
            self.invalidate()
            self.closed = True


class VerbsProtectionDomain(ProtectionDomain):
    """See :class:`iser.rdma.api.ProtectionDomain`.  It outlives :meth:`close` as long as a queue pair uses it."""

    def __init__(self, device: OpenDevice) -> None:
        self.device = device
        self.raw: Any = device.make_pd()
        options = device.options
        self.cache = MrCache(self._register, options.cache_bytes, keep_remote=not options.revoke_keys)
        # Buffers of our own, by the id of their mapping, while somebody has a view of them.
        self._own: dict[int, tuple[weakref.ref[mmap.mmap], RawRegion]] = {}
        self._regions: dict[int, list[MemoryRegion]] = {}  # valid ones, by rkey
        self._all: list[MemoryRegion] = []
        self._slots: dict[int, list[Slot]] = {}
        self._users = 0
        self._closed = False
        # A card that does iWARP wants its peer's access to the sink of our reads declared.
        self._sink_access = ACCESS_LOCAL_WRITE | (ACCESS_REMOTE_WRITE if device.is_iwarp else 0)

    # What our users call.

    def alloc_mr(self, kind: MrType, max_num_sg: int) -> MemoryRegion:
        if self._closed:
            raise UsageError("the protection domain is closed; allocate another one")
        attributes = self.device.attributes
        limit = attributes.max_page_list if kind is MrType.MEM_REG else attributes.max_sg_list
        if not 1 <= max_num_sg <= limit:
            raise ResourceError(f"a {kind.value} region of {max_num_sg} entries: the device has 1 to {limit}")
        region: MemoryRegion
        if self.device.mlx5 is not None:
            entries = max_num_sg if kind is MrType.SG_GAPS else attributes.max_fragments
            region = IndirectRegion(self.device.mlx5, self, kind, entries)
        else:
            region = VerbsMemoryRegion(self)
        self._all.append(region)
        return region

    def alloc_buffer(self, length: int) -> memoryview:
        if length < 1:
            raise UsageError(f"a buffer of {length} bytes: give at least 1")
        memory = mmap.mmap(-1, length)
        view = memoryview(memory)
        address = address_of(view)
        raw = self._register(address, length + PAGE - 1 & -PAGE, ACCESS_LOCAL_WRITE)
        key = id(memory)
        self._own[key] = weakref.ref(memory, partial(self._own_died, key)), raw
        return view

    def _own_died(self, key: int, ref: object) -> None:
        own = self._own.get(key)
        if own is not None and own[0] is ref:
            self._own.pop(key)[1].close()

    @property
    def valid_keys(self) -> int:
        return sum(map(len, self._regions.values()))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._free_if_idle()

    # What queue pairs call.

    def acquire(self) -> None:
        """A queue pair uses the domain."""
        self._users += 1

    def release(self) -> None:
        """A queue pair is gone."""
        self._users -= 1
        self._free_if_idle()

    def elements(self, views: Sequence[memoryview], hold: Hold, *, sink: bool = False) -> list[Element]:
        """Where ``views`` lie, for a work request; ``hold`` gets what must be given back by :meth:`drop`."""
        elements: list[Element] = []
        for view in views:
            if not len(view):
                continue
            own = self._own.get(id(view.obj))
            if own is not None and not (sink and self._sink_access != ACCESS_LOCAL_WRITE):
                elements.append((address_of(view), len(view), own[1].lkey))
                continue
            access = 0 if view.readonly else self._sink_access
            for address, length, region in self.cache.take_local(view, access):
                hold.append(region)
                elements.append((address, length, region.lkey))
        return elements

    def must_copy(self, views: Sequence[memoryview], length: int) -> bool:
        """True for a small list with memory that could only be registered for this once."""
        return length <= COPY_LIMIT and any(isinstance(view.obj, bytes | bytearray) for view in views)

    def take_slot(self, length: int) -> Slot:
        """A slot for ``length`` bytes."""
        size = max(MIN_SLOT, 1 << (length - 1).bit_length())
        free = self._slots.setdefault(size, [])
        if not free:
            slab = self.alloc_buffer(max(_SLAB, size))
            base, lkey = address_of(slab), self._own[id(slab.obj)][1].lkey
            free += [Slot(slab[at : at + size], base + at, lkey) for at in range(0, len(slab), size)]
        return free.pop()

    def drop(self, hold: Hold) -> None:
        """Give back what a request held."""
        for held in hold:
            if type(held) is Slot:
                self._slots[held.size].append(held)
            else:
                self.cache.give(held)  # type: ignore[arg-type]  # the exact class was looked at
        hold.clear()

    def take_remote(self, view: memoryview, access: int) -> CachedRegion:
        """A registration whose key a peer may be told of; memory of our own as a whole, since it is not shared."""
        owner = view.obj
        whole = memoryview(owner) if isinstance(owner, mmap.mmap) and id(owner) in self._own else view
        return self.cache.take_remote(whole, access)[1]

    def enter(self, region: MemoryRegion) -> None:
        """A region became valid."""
        self._regions.setdefault(region.rkey, []).append(region)

    def leave(self, region: MemoryRegion) -> None:
        """A region is valid no more."""
        regions = self._regions[region.rkey]
        regions.remove(region)
        if not regions:
            del self._regions[region.rkey]

    def region_of(self, rkey: int) -> MemoryRegion | None:
        """A valid region with this key; of several over the same registration the oldest."""
        regions = self._regions.get(rkey)
        return regions[0] if regions else None

    def _register(self, address: int, length: int, access: int) -> RawRegion:
        """Register with the device; when it has no room, once more without what is idle."""
        try:
            return self.device.make_mr(self.raw, address, length, access)
        except ResourceError:
            if not self.cache.evict_idle():
                raise
        return self.device.make_mr(self.raw, address, length, access)

    def _free_if_idle(self) -> None:
        if not self._closed or self._users or self.raw is None:
            return
        for region in self._all:
            region.close()
        statistics = self.cache.statistics
        log.debug("memory cache of %s: %s, hit rate %.2f", self.device.name, statistics, statistics.hit_rate)
        self.cache.close()
        for _, own in self._own.values():
            own.close()
        self._own.clear()
        raw, self.raw = self.raw, None
        try:
            raw.close()
        except self.device.pyverbs.Error as error:
            log.warning("%s", device_error(f"closing a protection domain of {self.device.name}", error))
        self.device.leave()
