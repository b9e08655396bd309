"""A memory region over any list: keys of mlx5 and the memory under them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from iser.errors import MemoryRegionError, ResourceError
from iser.rdma.api import Access, MemoryRegion, MrType, RegMr, ScatterList
from iser.rdma.verbs.constants import ACCESS_LOCAL_WRITE, ACCESS_REMOTE_READ, ACCESS_REMOTE_WRITE
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.mlx5 import KEY_ENTRIES, ListQueuePair, Mkey, Mlx5, post_list
from iser.rdma.verbs.mrcache import CachedRegion, MrCache
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.split import Element, groups_of

__all__ = ["Domain", "IndirectRegion"]

_FULL_ACCESS = ACCESS_LOCAL_WRITE | ACCESS_REMOTE_READ | ACCESS_REMOTE_WRITE


class Domain(Protocol):
    """The protection domain of a region."""

    device: OpenDevice
    raw: Any
    cache: MrCache

    def enter(self, region: MemoryRegion) -> None: ...

    def leave(self, region: MemoryRegion) -> None: ...


class IndirectRegion(MemoryRegion):
    """A region over any list, of either kind; its requests are built by the queue pair with :meth:`post`."""

    __slots__ = ("_elements", "_keys", "_mlx5", "_pd", "_taken", "closed")

    def __init__(self, mlx5: Mlx5, pd: Domain, kind: MrType, max_num_sg: int) -> None:
        self.kind = kind
        self.max_num_sg = max_num_sg
        self._mlx5 = mlx5
        self._pd = pd
        self._keys = [self._make_key(min(max_num_sg, KEY_ENTRIES))]
        self._elements: list[Element] = []
        self._taken: list[CachedRegion] = []
        self.lkey, self.rkey = self._keys[0].lkey, self._keys[0].rkey
        self.iova = 0
        self.length = 0
        self.access = Access(0)
        self.valid = False
        self.closed = False

    def _make_key(self, entries: int) -> Mkey:
        device = self._pd.device
        try:
            return self._mlx5.make_key(self._pd.raw, entries)
        except device.pyverbs.Error as error:
            raise device_error(f"making an indirect key on {device.name}", error) from error

    def map_sg(self, sg: ScatterList, offset: int = 0, page_size: int = 4096) -> int:
        """See :class:`MemoryRegion`."""
        if self.valid or self.closed:
            state = "closed" if self.closed else "valid"
            raise MemoryRegionError(f"region {self.rkey:#010x} is {state}; invalidate it before mapping it again")
        if not len(sg.views) or not 0 <= offset < sg.lengths[0]:
            raise MemoryRegionError(f"a list of {len(sg.views)} elements with offset {offset} maps nothing")
        if len(sg.views) > self.max_num_sg:
            raise MemoryRegionError(
                f"{len(sg.views)} elements do not fit a region of {self.max_num_sg}; split the list"
            )
        self.unmap()
        views = [sg.views[0][offset:], *sg.views[1:]] if offset else sg.views
        for view in views:
            access = ACCESS_REMOTE_READ if view.readonly else _FULL_ACCESS
            for address, length, region in self._pd.cache.take_local(view, access):
                self._taken.append(region)
                self._elements.append((address, length, region.lkey))
        self.length = sg.length - offset
        groups = len(groups_of(len(self._elements), KEY_ENTRIES))
        if groups > KEY_ENTRIES:
            raise ResourceError(f"{len(self._elements)} pieces of memory do not fit a key over keys; split the list")
        while groups > 1 and len(self._keys) < 1 + groups:
            self._keys.append(self._make_key(KEY_ENTRIES))
        return len(sg.views)

    def next_key(self, access: Access) -> int:
        """The device's one key for this region."""
        del access
        return self.rkey

    def check(self, wr: RegMr) -> None:
        """Raise MemoryRegionError when the request cannot be posted."""
        if self.closed or self.valid or not self._elements or wr.key != self.rkey:
            raise MemoryRegionError(
                f"cannot register region {self.rkey:#010x} as {wr.key:#010x}: it must be free, mapped and keep its key"
            )

    def requests(self) -> int:
        """How many work requests :meth:`post` takes."""
        groups = len(groups_of(len(self._elements), KEY_ENTRIES))
        return 1 if groups == 1 else 1 + groups

    @property
    def elements(self) -> tuple[Element, ...]:
        """What is mapped."""
        return tuple(self._elements)

    def post(self, qp: ListQueuePair, wr_id: int, access: int, flags: int, elements: Sequence[Element]) -> int:
        """Post the configuration; the region is valid for whatever is posted next."""
        return post_list(qp, wr_id, flags, self._keys, access, elements, self._mlx5.sge)

    def register(self, wr: RegMr) -> None:
        """The region is valid from now on."""
        self.access = wr.access
        self.valid = True
        self._pd.enter(self)

    def invalidate(self) -> None:
        """The key was invalidated, by either side."""
        if self.valid:
            self.valid = False
            self._pd.leave(self)
        self.unmap()

    def unmap(self) -> None:
        """Let go of the memory."""
        for region in self._taken:
            self._pd.cache.give(region)
        self._taken.clear()
        self._elements.clear()

    def close(self) -> None:
        if not self.closed:
            self.invalidate()
            self.closed = True
            for key in self._keys:
                key.close()
