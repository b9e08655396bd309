"""Memory regions of the software RNIC and the table of their keys.

A key (STag, rkey) is a 24-bit index and an 8-bit variant.  The index finds the region, then all 32 bits must match, so
that a key of an earlier registration is refused.  Remote byte ``j`` of a region is byte ``j`` of the concatenation of
its elements; every remote access is checked against the registered range and the access flags (RFC 5040 section 5.4,
RFC 5041 section 7).
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from iser.errors import MemoryRegionError, ResourceError, TerminateError
from iser.rdma.api import Access, MemoryRegion, MrType, ProtectionDomain, RegMr, ScatterList
from iser.rdma.softiwarp.wire import Fault, fault

__all__ = ["MAX_INDEX", "REMOTE_READ", "REMOTE_WRITE", "KeyTable", "SoftMemoryRegion", "fill", "slices_of"]

MAX_INDEX: Final = 0xFFFFFF
PAGE_SIZE: Final = 4096  # bytes of a page, if nothing else is said
_TO_SPACE: Final = 1 << 64
_ONE_START: Final = (0,)
#: The access flags as plain integers: an operation on IntFlag members costs a microsecond.
REMOTE_WRITE: Final = int(Access.REMOTE_WRITE)
REMOTE_READ: Final = int(Access.REMOTE_READ)
_WRITABLE: Final = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE)


def slices_of(views: Sequence[memoryview], starts: Sequence[int], offset: int, length: int) -> list[memoryview]:
    """The pieces of a list of views that hold bytes ``offset`` to ``offset + length``.

    ``starts`` holds where each view begins in the concatenation.  Empty views are passed over.
    """
    which = bisect_right(starts, offset) - 1
    offset -= starts[which]
    pieces = []
    while length > 0:
        view = views[which]
        size = len(view)
        if offset or size > length:
            view = view[offset : offset + length]
            size = len(view)
            offset = 0
        if size:
            pieces.append(view)
            length -= size
        which += 1
    return pieces


def fill(pieces: Sequence[memoryview], source: memoryview) -> None:
    """Copy all of ``source`` to the first of ``pieces``, which have room for it."""
    at, end = 0, len(source)
    for piece in pieces:
        part = source[at : at + len(piece)]
        at += len(part)
        piece[: len(part)] = part
        if at == end:
            return


class KeyTable:
    """The regions of one device, found by the index of their key.  Index 0 is never given out."""

    __slots__ = ("_limit", "_next", "regions")

    def __init__(self, limit: int) -> None:
        self.regions: dict[int, SoftMemoryRegion | None] = {}
        self._limit = limit
        # A random start makes it unlikely that a key of an earlier run still names something.
        self._next = secrets.randbelow(MAX_INDEX)

    def reserve(self) -> int:
        """Take a free index for a key that names no region.  Raises ResourceError at the limit."""
        if len(self.regions) >= self._limit:
            raise ResourceError(f"all {self._limit} memory keys of the device are in use; close some regions first")
        index = self._next % MAX_INDEX + 1
        while index in self.regions:
            index = index % MAX_INDEX + 1
        self._next = index
        self.regions[index] = None
        return index

    def release(self, index: int) -> None:
        self.regions.pop(index, None)


class SoftMemoryRegion(MemoryRegion):
    """A region of either kind; see :class:`iser.rdma.api.MemoryRegion`."""

    __slots__ = ("_access_bits", "_list", "_max_bytes", "_plain", "_starts", "_table", "_views", "closed", "flat", "pd")

    def __init__(self, table: KeyTable, pd: ProtectionDomain, kind: MrType, max_num_sg: int, max_bytes: int) -> None:
        self.kind = kind
        self.max_num_sg = max_num_sg
        self.lkey = self.rkey = table.reserve() << 8
        table.regions[self.rkey >> 8] = self
        self.iova = 0
        self.length = 0
        self.access = Access(0)
        self._access_bits = 0
        self.valid = False
        self.pd = pd
        self.closed = False
        #: The one element of a contiguous region: the fast way to its bytes.
        self.flat: memoryview | None = None
        self._views: Sequence[memoryview] = ()
        self._starts: Sequence[int] = ()
        self._list: ScatterList | None = None
        self._table = table
        self._max_bytes = max_bytes
        self._plain = min((max_num_sg - 1) * PAGE_SIZE, max_bytes)

    def map_sg(self, sg: ScatterList, offset: int = 0, page_size: int = PAGE_SIZE) -> int:
        if self.valid or self.closed:
            state = "closed" if self.closed else "valid"
            raise MemoryRegionError(f"region {self.rkey:#010x} is {state}; invalidate it before mapping it again")
        if len(sg.views) == 1 and not offset and 0 < sg.length <= self._plain and page_size == PAGE_SIZE:
            # What most lists are, in short: one element, of which no page list is too long whatever its address.
            self._views, self._starts, self._list = sg.views, _ONE_START, sg
            self.flat = sg.views[0]
            self.iova = sg.addresses[0]
            self.length = sg.length
            return 1
        elements = count = len(sg.views)
        if not count or not 0 <= offset <= sg.lengths[0]:
            raise MemoryRegionError(f"a list of {count} elements with offset {offset} maps nothing")
        if self.kind is MrType.MEM_REG:
            count = _page_prefix(sg, offset, page_size, self.max_num_sg)
        elif count > self.max_num_sg:
            count = 0
        if not count:
            raise MemoryRegionError(
                f"the list of {elements} elements is too long for a {self.kind.value} region of {self.max_num_sg} "
                f"entries; split it or allocate a larger region"
            )
        length = (sg.length if count == elements else sum(sg.lengths[:count])) - offset
        if length > self._max_bytes:
            raise MemoryRegionError(f"{length} bytes do not fit a region of at most {self._max_bytes}")
        if count == elements and not offset:
            self._take_whole(sg)
        else:
            self._take_part(sg, count, offset)
        self.iova = sg.addresses[0] + offset
        self.length = length
        self._list = sg
        return count

    def _take_whole(self, sg: ScatterList) -> None:
        views = sg.views
        if len(views) == 1 and sg.length:
            self.flat = views[0]
            self._views, self._starts = views, _ONE_START
            return
        # Lists that know where their elements begin have no empty ones.
        starts: Sequence[int] | None = getattr(sg, "starts", None)
        if starts is None:
            self._take_part(sg, len(views), 0)
        else:
            self.flat = None
            self._views, self._starts = views, starts

    def _take_part(self, sg: ScatterList, count: int, offset: int) -> None:
        views = [sg.views[0][offset:], *sg.views[1:count]]
        lengths = [sg.lengths[0] - offset, *sg.lengths[1:count]]
        if 0 in lengths:
            views = [view for view in views if view]
            lengths = [length for length in lengths if length]
        self._views = views
        self._starts = [0, *accumulate(lengths[:-1])]
        self.flat = views[0] if len(views) == 1 else None

    def register(self, wr: RegMr) -> None:
        """Carry out a RegMr.  Raises MemoryRegionError."""
        problem = ""
        access = int(wr.access)
        if self.closed:
            problem = "the region is closed"
        elif self.valid:
            problem = "the region is valid; invalidate it first"
        elif wr.key >> 8 != self.rkey >> 8:
            problem = "the key has another index; use inc_rkey(mr.rkey)"
        elif not self._views:
            problem = "nothing is mapped; call map_sg first"
        elif access & _WRITABLE and self._has_readonly():
            problem = "a read-only buffer cannot be registered for writing"
        if problem:
            raise MemoryRegionError(f"cannot register region {self.rkey:#010x} as {wr.key:#010x}: {problem}")
        self.rkey = self.lkey = wr.key
        self.access = wr.access
        self._access_bits = access
        self.valid = True

    def _has_readonly(self) -> bool:
        # Lists that know it save looking at each of their pieces when they are registered.
        known: bool | None = getattr(self._list, "readonly", None)
        return any(view.readonly for view in self._views) if known is None else known

    def invalidate(self) -> None:
        """Refuse the key from now on and let go of the memory."""
        self.valid = False
        self.flat = self._list = None
        self._views = self._starts = ()

    def close(self) -> None:
        if not self.closed:
            self.invalidate()
            self.closed = True
            self._table.release(self.rkey >> 8)

    def check(self, stag: int, to: int, length: int, access: int, pd: ProtectionDomain) -> int:
        """The offset of ``to`` in the region, for ``REMOTE_WRITE`` or ``REMOTE_READ``.

        Raises TerminateError with the code of the first rule that is broken.
        """
        which = 0 if access == REMOTE_WRITE else 1
        if stag != self.rkey or not self.valid:
            raise _refused(_INVALID[which], stag, "is stale or not valid")
        if pd is not self.pd:
            raise _refused(_NOT_ASSOCIATED[which], stag, "belongs to another protection domain")
        if to + length > _TO_SPACE:
            raise _refused(_WRAP[which], stag, f"is used with offset {to:#x} and {length} bytes, which wraps")
        offset = to - self.iova
        if offset < 0 or offset + length > self.length:
            raise _refused(
                _BOUNDS[which], stag, f"spans {self.length} bytes from {self.iova:#x}, not {length} from {to:#x}"
            )
        if not self._access_bits & access:
            raise _refused(fault.PROTECTION_ACCESS, stag, f"does not allow {Access(access).name}")
        return offset

    def slices(self, offset: int, length: int) -> list[memoryview]:
        """The pieces of memory that hold ``length`` bytes from ``offset``; both must have been checked."""
        flat = self.flat
        if flat is not None:
            return [flat[offset : offset + length]]
        if not length:
            return []
        # No piece is empty here, so the two ends tell which there are, and only they may need to be cut.
        starts = self._starts
        first = bisect_right(starts, offset) - 1
        after = bisect_left(starts, offset + length, first)
        pieces = list(self._views[first:after])
        end = offset + length - starts[after - 1]
        if end < len(pieces[-1]):
            pieces[-1] = pieces[-1][:end]
        skip = offset - starts[first]
        if skip:
            pieces[0] = pieces[0][skip:]
        return pieces


# Tagged Writes are judged by DDP, the source of a Read Request by RDMAP.
_INVALID: Final = (fault.TAGGED_INVALID_STAG, fault.PROTECTION_INVALID_STAG)
_NOT_ASSOCIATED: Final = (fault.TAGGED_NOT_ASSOCIATED, fault.PROTECTION_NOT_ASSOCIATED)
_WRAP: Final = (fault.TAGGED_TO_WRAP, fault.PROTECTION_TO_WRAP)
_BOUNDS: Final = (fault.TAGGED_BOUNDS, fault.PROTECTION_BOUNDS)


def _refused(what: Fault, stag: int, why: str) -> TerminateError:
    return TerminateError(f"the peer used STag {stag:#010x}, which {why}", *what)


def _page_prefix(sg: ScatterList, offset: int, page_size: int, max_pages: int) -> int:
    """How many whole elements a page list of ``max_pages`` entries can describe.

    Neighbours must touch, or the first end and the second start on a page boundary.
    """
    mask = page_size - 1
    if len(sg.views) == 1:
        touched = (sg.addresses[0] + offset & mask) + sg.lengths[0] - offset
        return 1 if -(-touched // page_size) <= max_pages else 0
    pages = end = 0
    for index, (address, length) in enumerate(zip(sg.addresses, sg.lengths, strict=True)):
        start = address if index else address + offset
        if index and start != end and (start | end) & mask:
            return index
        # A page that the element before has already entered is not counted twice.
        first = end + mask & ~mask if index and start == end else start & ~mask
        end = address + length
        pages += max(0, end - first + mask) // page_size
        if pages > max_pages:
            return index
    return len(sg.views)
