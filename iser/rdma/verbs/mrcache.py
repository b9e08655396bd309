"""Registrations of other people's memory, kept for the next time.

Registering pins pages and costs as much as copying tens of kilobytes, so a registration outlives the work request that
needed it.  It is found by the *object* that owns the memory, not by address alone: an address can come back as other
memory.  Only objects whose memory cannot move while they live are kept (``mmap``, numpy and ctypes arrays); anything
else (``bytearray``, ``bytes``, ``array``) is registered for one use.  The cache does not keep an object alive: its
registrations go when it does.

For local use (keys that no peer is told) a registration covers a whole chunk of the object, so that neighbours hit.
For remote use it covers the pages of the buffer and no more, and is made for one set of access flags, since a peer that
knows the key can reach all of it.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from iser.errors import MemoryRegionError
from iser.rdma.address import address_of
from iser.rdma.pages import watch_pages
from iser.rdma.verbs.constants import ACCESS_REMOTE_READ, ACCESS_REMOTE_WRITE

__all__ = ["CHUNK", "DEFAULT_CACHE", "PAGE", "CacheStatistics", "CachedRegion", "MrCache", "RawRegion", "Register"]

PAGE: Final = 4096
CHUNK: Final = 4 << 20  # bytes of an object that are registered at once for local use
DEFAULT_CACHE: Final = 512 << 20  # bytes registered for one protection domain, idle ones included

_REMOTE: Final = ACCESS_REMOTE_READ | ACCESS_REMOTE_WRITE


class RawRegion(Protocol):
    """A registration of the device."""

    @property
    def lkey(self) -> int: ...

    @property
    def rkey(self) -> int: ...

    def close(self) -> None: ...


#: Registers ``length`` bytes at an address with access flags.  Raises ResourceError.
Register = Callable[[int, int, int], RawRegion]


@dataclass(slots=True)
class CacheStatistics:
    """Counts since the start; ``transient`` ones are neither hits nor misses.  ``bytes`` are registered now."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    transient: int = 0
    bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """From 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


class CachedRegion:
    """A registration and how many work requests or regions use it.  ``end`` is past the last byte."""

    __slots__ = ("end", "home", "key", "lkey", "raw", "rkey", "start", "users")

    def __init__(self, raw: RawRegion, start: int, end: int, home: _Home | None, key: tuple[int, int, int]) -> None:
        self.raw = raw
        self.lkey = raw.lkey
        self.rkey = raw.rkey
        self.start = start
        self.end = end
        self.home = home  # None: transient, or its object has gone
        self.key = key
        self.users = 1


class _Home:
    """An object with registered memory, and its registrations by page range and access."""

    __slots__ = ("base", "end", "ref", "regions")

    def __init__(self, ref: weakref.ref[Any], base: int, end: int) -> None:
        self.ref = ref
        self.base = base
        self.end = end
        self.regions: dict[tuple[int, int, int], CachedRegion] = {}


class MrCache:
    """The registrations of one protection domain, up to ``limit`` bytes unless more are in use at once.

    Without ``keep_remote``, keys that a peer was told die as soon as they are given back.
    """

    def __init__(
        self, register: Register, limit: int = DEFAULT_CACHE, chunk: int = CHUNK, *, keep_remote: bool = True
    ) -> None:
        self._register = register
        self._keep_remote = keep_remote
        self._limit = limit
        self._chunk = chunk
        self._homes: dict[int, _Home] = {}
        self._idle: dict[CachedRegion, None] = {}  # oldest first
        self._transient: set[CachedRegion] = set()
        self.statistics = CacheStatistics()
        watch_pages(self)

    def take_local(self, view: memoryview, access: int) -> list[tuple[int, int, CachedRegion]]:
        """Address, length and registration of each piece of a non-empty ``view``; give each registration back."""
        address = address_of(view)
        end = address + len(view)
        home = self._home_of(view, address, end)
        if home is None:
            return [(address, end - address, self._take_transient(address, end, access))]
        pieces = []
        floor = home.base & -PAGE
        while address < end:
            start = floor + (address - floor) // self._chunk * self._chunk
            stop = min(start + self._chunk, home.end)
            pieces.append((address, min(end, stop) - address, self._take(home, start, stop, access)))
            address = stop
        return pieces

    def take_remote(self, view: memoryview, access: int) -> tuple[int, CachedRegion]:
        """The address of a non-empty ``view`` and a registration of its pages that a peer may be told of."""
        address = address_of(view)
        end = address + len(view)
        home = self._home_of(view, address, end) if self._keep_remote else None
        if home is None:
            return address, self._take_transient(address, end, access)
        return address, self._take(home, address & -PAGE, end, access)

    def give(self, region: CachedRegion) -> None:
        """Take a registration back."""
        region.users -= 1
        if region.users:
            return
        if region.home is None:
            self._transient.discard(region)
            self._close(region)
        else:
            self._idle[region] = None
            if self.statistics.bytes > self._limit:
                self._evict(0)

    def close(self) -> None:
        """Deregister everything, in use or not."""
        homes, self._homes = list(self._homes.values()), {}
        for home in homes:
            for region in home.regions.values():
                self._close(region)
        for region in self._transient:
            self._close(region)
        self._idle.clear()
        self._transient.clear()

    def evict_idle(self) -> bool:
        """Deregister all that is not in use; False when there was nothing."""
        found = bool(self._idle)
        while self._idle:
            self._evict_one()
        return found

    def _home_of(self, view: memoryview, address: int, end: int) -> _Home | None:
        owner = view.obj
        home = self._homes.get(id(owner))
        if home is not None:
            if home.ref() is owner and home.base <= address and end <= home.end:
                return home
            self._forget(id(owner), home)
        if not _is_stable(owner):
            return None
        whole = memoryview(owner)
        if not whole.contiguous:
            return None
        flat = whole.cast("B") if whole.format != "B" or whole.ndim != 1 else whole
        base = address_of(flat)
        key = id(owner)
        # What is registered must not be found through a later object that gets the same identity.
        home = _Home(weakref.ref(owner, partial(self._died, key)), base, base + flat.nbytes)
        self._homes[key] = home
        return home

    def _died(self, key: int, ref: object) -> None:
        home = self._homes.get(key)
        if home is not None and home.ref is ref:
            self._forget(key, home)

    def pages_replaced(self, owner: mmap.mmap, offset: int, length: int) -> None:
        """See :class:`PageWatcher`: what covers these pages is registered anew when it is next used."""
        home = self._homes.get(id(owner))
        if home is None or home.ref() is not owner:
            return
        start, end = home.base + offset, home.base + offset + length
        for region in [each for each in home.regions.values() if each.start < end and start < each.end]:
            del home.regions[region.key]
            self._orphan(region)

    def _forget(self, key: int, home: _Home) -> None:
        del self._homes[key]
        for region in home.regions.values():
            self._orphan(region)
        home.regions.clear()

    def _orphan(self, region: CachedRegion) -> None:
        """Close a registration that no longer stands for its object, now or when its users are done."""
        region.home = None
        if region.users:
            self._transient.add(region)
        else:
            del self._idle[region]
            self._close(region)

    def _take(self, home: _Home, start: int, end: int, access: int) -> CachedRegion:
        end = end + PAGE - 1 & -PAGE
        key = (start, end, access)
        region = home.regions.get(key)
        if region is not None:
            self.statistics.hits += 1
            if not region.users:
                del self._idle[region]
            region.users += 1
            return region
        self.statistics.misses += 1
        self._evict(end - start)
        region = CachedRegion(self._register(start, end - start, access), start, end, home, key)
        home.regions[key] = region
        self.statistics.bytes += end - start
        return region

    def _take_transient(self, start: int, end: int, access: int) -> CachedRegion:
        self.statistics.transient += 1
        self._evict(end - start)
        if not access & _REMOTE:
            start, end = start & -PAGE, end + PAGE - 1 & -PAGE
        region = CachedRegion(self._register(start, end - start, access), start, end, None, (start, end, access))
        self._transient.add(region)
        self.statistics.bytes += end - start
        return region

    def _evict(self, needed: int) -> None:
        while self._idle and self.statistics.bytes + needed > self._limit:
            self._evict_one()

    def _evict_one(self) -> None:
        region = next(iter(self._idle))
        del self._idle[region]
        home = region.home
        if home is None:
            raise MemoryRegionError("an idle registration has lost its object")
        del home.regions[region.key]
        self.statistics.evictions += 1
        self._close(region)

    def _close(self, region: CachedRegion) -> None:
        self.statistics.bytes -= region.end - region.start
        region.raw.close()


def _is_stable(owner: object) -> bool:
    """True when the memory of ``owner`` stays where it is as long as it lives, whoever looks at it or not."""
    if isinstance(owner, (mmap.mmap, ctypes.Array)):
        return True
    # numpy refuses to resize an array that has a weak reference.
    return type(owner).__module__ == "numpy"
