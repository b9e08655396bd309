"""One key over a byte-granular list: mlx5's indirect memory keys, configured by a work request.

Not yet run on hardware: written from the provider's documented interface (mlx5dv_wr_mr_list(3), mlx5dv_create_mkey(3))
and tested for the exact work requests that are posted.

Such a key is zero-based: the peer counts from byte 0 of the list.  Its number never changes, so it is invalidated, by
us or by the peer, before it is configured again.  One request carries up to :data:`KEY_ENTRIES` elements inline; a
longer list becomes keys over its groups, and a key over those keys.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from iser.errors import MemoryRegionError, ResourceError
from iser.rdma.api import Access, MemoryRegion, MrType, RegMr, ScatterList
from iser.rdma.verbs.constants import ACCESS_LOCAL_WRITE, ACCESS_REMOTE_READ, ACCESS_REMOTE_WRITE, SEND_INLINE
from iser.rdma.verbs.library import device_error, load_pyverbs
from iser.rdma.verbs.mrcache import CachedRegion
from iser.rdma.verbs.split import Element, groups_of

if TYPE_CHECKING:
    from iser.rdma.verbs.memory import VerbsProtectionDomain

__all__ = ["INLINE_BYTES", "KEY_ENTRIES", "IndirectRegion", "ListQueuePair", "Mkey", "Mlx5", "open_mlx5", "post_list"]

log = logging.getLogger("iser.rdma.verbs")

KEY_ENTRIES: Final = 52  # elements that fit a work request of 1024 bytes, less its control segments
INLINE_BYTES: Final = 16 * KEY_ENTRIES - 4  # makes the provider allow so large a request
MAX_LIST: Final = 2048  # elements of one region: 40 keys under one

_MKEY_INDIRECT: Final = 1 << 0
_MKEY_REMOTE_INVALIDATE: Final = 1 << 4
_OPS_MR_LIST: Final = 1 << 1  # MLX5DV_QP_EX_WITH_MR_LIST
_OPS_MKEY_CONFIGURE: Final = 1 << 2  # MLX5DV_QP_EX_WITH_MKEY_CONFIGURE
_QP_MASK_CREATE_FLAGS: Final = 1 << 0
_QP_MASK_SEND_OPS: Final = 1 << 2
_QP_DISABLE_SCATTER_TO_CQE: Final = 1 << 3
_INIT_ATTR_PD: Final = 1 << 0
_INIT_ATTR_SEND_OPS: Final = 1 << 6
#: Writes, Sends, Reads, local invalidation and Sends with Invalidate (``enum ibv_qp_create_send_ops_flags``).
_SEND_OPS: Final = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 7 | 1 << 9

_FULL_ACCESS: Final = ACCESS_LOCAL_WRITE | ACCESS_REMOTE_READ | ACCESS_REMOTE_WRITE


class Mkey(Protocol):
    """``Mlx5Mkey``: an indirect key."""

    @property
    def lkey(self) -> int: ...

    @property
    def rkey(self) -> int: ...

    def close(self) -> None: ...


class ListQueuePair(Protocol):
    """What is used of ``Mlx5QP``: requests are built between ``wr_start`` and ``wr_complete``, then posted at once."""

    wr_id: int
    wr_flags: int

    def wr_start(self) -> None: ...

    def wr_mr_list(self, mkey: Mkey, access_flags: int, sge_list: list[Any]) -> None: ...

    def wr_local_inv(self, invalidate_rkey: int) -> None: ...

    def wr_complete(self) -> None: ...


class Mlx5:
    """An open mlx5 device that has indirect keys."""

    def __init__(self, name: str) -> None:
        dv = importlib.import_module("pyverbs.providers.mlx5.mlx5dv")
        mkey = importlib.import_module("pyverbs.providers.mlx5.mlx5dv_mkey")
        qp = importlib.import_module("pyverbs.qp")
        pyverbs = load_pyverbs()
        self.context: Any = dv.Mlx5Context(dv.Mlx5DVContextAttr(), name=name)
        self.max_list = MAX_LIST
        self.sge: Any = pyverbs.SGE
        self._dv, self._mkey, self._qp = dv, mkey, qp
        pd = pyverbs.PD(self.context)
        try:
            self.make_key(pd, KEY_ENTRIES).close()  # there is no capability to ask for
        finally:
            pd.close()

    def make_key(self, pd: Any, entries: int) -> Mkey:
        """An indirect key of a pyverbs domain for up to ``entries`` elements."""
        key: Mkey = self._mkey.Mlx5Mkey(pd, _MKEY_INDIRECT | _MKEY_REMOTE_INVALIDATE, entries)
        return key

    def make_qp(self, pd: Any, cq: Any, cap: Any) -> Any:
        """A queue pair whose send queue can configure keys."""
        init = self._qp.QPInitAttrEx(
            qp_type=2,
            scq=cq,
            rcq=cq,
            pd=pd,
            sq_sig_all=0,
            cap=cap,
            comp_mask=_INIT_ATTR_PD | _INIT_ATTR_SEND_OPS,
            send_ops_flags=_SEND_OPS,
        )
        # MR_LIST besides MKEY_CONFIGURE, else version 44 makes the requests too small.
        attr = self._dv.Mlx5DVQPInitAttr(
            comp_mask=_QP_MASK_SEND_OPS | _QP_MASK_CREATE_FLAGS,
            send_ops_flags=_OPS_MR_LIST | _OPS_MKEY_CONFIGURE,
            create_flags=_QP_DISABLE_SCATTER_TO_CQE,
        )
        return self._dv.Mlx5QP(self.context, init, attr)


def open_mlx5(name: str) -> Mlx5 | None:
    """The device with indirect keys; None where it has none, which is every other driver."""
    try:
        driver = os.path.basename(os.readlink(f"/sys/class/infiniband/{name}/device/driver"))
    except OSError:
        return None
    if driver != "mlx5_core":
        return None
    error = load_pyverbs().Error
    try:
        return Mlx5(name)
    except (ImportError, error) as problem:
        log.info("%s has no indirect keys (%s); lists with gaps are copied", name, problem)
        return None


def post_list(
    qp: ListQueuePair,
    wr_id: int,
    flags: int,
    keys: Sequence[Mkey],
    access: int,
    elements: Sequence[Element],
    sge: Any,
) -> int:
    """Configure ``keys[0]`` over ``elements``; a list too long for it goes by way of the other keys.

    Returns how many work requests were posted, in one go; only the last has ``flags``.  Nothing is posted when this
    raises.
    """
    groups = groups_of(len(elements), KEY_ENTRIES)
    made: list[Any] = []
    qp.wr_start()
    top = list(elements)
    if len(groups) > 1:
        top = []
        for key, (start, end) in zip(keys[1:], groups, strict=False):
            group = elements[start:end]
            _configure(qp, (wr_id, 0), key, access, group, sge, made)
            top.append((0, sum(length for _, length, _ in group), key.lkey))
    _configure(qp, (wr_id, flags), keys[0], access, top, sge, made)
    qp.wr_complete()
    for each in made:
        each.close()
    return 1 if len(groups) == 1 else 1 + len(groups)


def _configure(
    qp: ListQueuePair,
    head: tuple[int, int],
    key: Mkey,
    access: int,
    elements: Sequence[Element],
    sge: Any,
    made: list[Any],
) -> None:
    sges = [sge(address, length, lkey) for address, length, lkey in elements]
    made += sges
    qp.wr_id = head[0]
    # Inline are the descriptors; the data stays where it is.
    qp.wr_flags = SEND_INLINE | head[1]
    qp.wr_mr_list(key, access, sge_list=sges)


class IndirectRegion(MemoryRegion):
    """A region over any list, of either kind; its requests are built by the queue pair with :meth:`post`."""

    __slots__ = ("_elements", "_keys", "_mlx5", "_pd", "_taken", "closed")

    def __init__(self, mlx5: Mlx5, pd: VerbsProtectionDomain, kind: MrType, max_num_sg: int) -> None:
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
