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
from typing import Any, Final, Protocol

from iser.rdma.verbs.constants import (
    INIT_ATTR_PD,
    INIT_ATTR_SEND_OPS,
    OPS_LOCAL_INV,
    OPS_READ,
    OPS_SEND,
    OPS_SEND_WITH_INV,
    OPS_WRITE,
    SEND_INLINE,
)
from iser.rdma.verbs.library import load_pyverbs
from iser.rdma.verbs.split import Element, groups_of

__all__ = ["INLINE_BYTES", "KEY_ENTRIES", "ListQueuePair", "Mkey", "Mlx5", "open_mlx5", "post_list"]

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
_SEND_OPS: Final = OPS_WRITE | OPS_SEND | OPS_READ | OPS_LOCAL_INV | OPS_SEND_WITH_INV


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
            comp_mask=INIT_ATTR_PD | INIT_ATTR_SEND_OPS,
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
