"""The device's queue pair: made as large as the device can, and its attributes in pyverbs' form."""

from __future__ import annotations

from typing import Any, Final

from iser.rdma.api import QpCap
from iser.rdma.verbs.constants import (
    ACCESS_LOCAL_WRITE,
    ACCESS_REMOTE_READ,
    ACCESS_REMOTE_WRITE,
    INIT_ATTR_PD,
    INIT_ATTR_SEND_OPS,
    OPS_READ,
    OPS_SEND,
    OPS_SEND_WITH_INV,
    OPS_WRITE,
    QPS_INIT,
    QPT_RC,
    QpAttrMask,
)
from iser.rdma.verbs.cq import VerbsCompletionQueue
from iser.rdma.verbs.events import CmId
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.memory import VerbsProtectionDomain
from iser.rdma.verbs.mlx5 import INLINE_BYTES
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.options import MIN_SEND_DEPTH
from iser.rdma.verbs.rdmacm import QpAttr

__all__ = ["MAX_SGE", "attributes_of", "bring", "credits_of", "make_raw", "max_sge_of"]

MAX_SGE: Final = 32
_RNR_TIMER: Final = 12  # 0.64 ms until a peer tries again that found no receive; the CM's 0 means 655 ms


def max_sge_of(device: OpenDevice) -> int:
    """How many elements one request of ours has at most."""
    return min(device.attributes.max_sge, MAX_SGE)


def credits_of(device: OpenDevice, cq: VerbsCompletionQueue, cap: QpCap) -> int:
    """How many send requests the device's queue pair is to hold."""
    wanted = max(MIN_SEND_DEPTH, min(device.options.send_depth, cap.max_send_wr))
    return min(wanted, device.attributes.max_qp_wr, cq.depth - cap.max_recv_wr)


def make_raw(
    device: OpenDevice, pd: VerbsProtectionDomain, cq: VerbsCompletionQueue, wanted: QpCap, credits: int
) -> tuple[Any, int]:
    """The device's queue pair of ``credits`` requests, and how many bytes it takes inline: as asked, else none.

    Raises what :func:`iser.rdma.verbs.library.device_error` makes of the device's refusal.
    """
    pyverbs = device.pyverbs
    problem: Exception | None = None
    inline = max(device.options.inline, INLINE_BYTES) if device.mlx5 else device.options.inline
    for size in (inline, min(inline, 76), 0):
        cap = pyverbs.QPCap(
            max_send_wr=credits,
            max_recv_wr=wanted.max_recv_wr,
            max_send_sge=max_sge_of(device),
            max_recv_sge=1,
            max_inline_data=size,
        )
        try:
            if device.mlx5 is not None:
                return device.mlx5.make_qp(pd.raw, cq.raw, cap), size
            return _make_extended(device, pd, cq, cap) or _make_plain(device, pd, cq, cap), size
        except pyverbs.Error as error:
            problem = error
    assert problem is not None
    raise device_error(f"making a queue pair on {device.name}", problem) from problem


def _make_extended(device: OpenDevice, pd: VerbsProtectionDomain, cq: VerbsCompletionQueue, cap: Any) -> Any:
    """One that takes requests in place, see :class:`iser.rdma.verbs.request.InPlaceRequests`; None without that."""
    pyverbs = device.pyverbs
    init = pyverbs.QPInitAttrEx(
        qp_type=QPT_RC,
        scq=cq.raw,
        rcq=cq.raw,
        cap=cap,
        sq_sig_all=0,
        pd=pd.raw,
        comp_mask=INIT_ATTR_PD | INIT_ATTR_SEND_OPS,
        send_ops_flags=OPS_WRITE | OPS_SEND | OPS_READ | OPS_SEND_WITH_INV,
    )
    try:
        return pyverbs.QPEx(device.context, init)
    except pyverbs.Error:
        return None  # its provider (siw's) has no such calls, or refuses the sizes, as it will do once more


def _make_plain(device: OpenDevice, pd: VerbsProtectionDomain, cq: VerbsCompletionQueue, cap: Any) -> Any:
    pyverbs = device.pyverbs
    return pyverbs.QP(pd.raw, pyverbs.QPInitAttr(qp_type=QPT_RC, scq=cq.raw, rcq=cq.raw, cap=cap, sq_sig_all=0))


def bring(raw: Any, pyverbs: Any, cm: CmId, state: int, served: int | None, wanted: int | None) -> int | None:
    """Bring ``raw`` to ``state`` as the connection manager says; returns the port, where that is told.

    ``served`` and ``wanted`` are the read depths, where the connection manager has only the peer's wishes.
    Raises OSError or pyverbs' own errors.
    """
    attr, mask = cm.library.init_qp_attr(cm.pointer, state)
    if state == QPS_INIT:
        # The active side is told 0, and the peer's first Write would end the connection.
        attr.qp_access_flags = ACCESS_LOCAL_WRITE | ACCESS_REMOTE_READ | ACCESS_REMOTE_WRITE
        mask |= QpAttrMask.ACCESS_FLAGS
    if mask & QpAttrMask.MIN_RNR_TIMER:
        attr.min_rnr_timer = _RNR_TIMER
    if served is not None and mask & QpAttrMask.MAX_DEST_RD_ATOMIC:
        attr.max_dest_rd_atomic = served
    if wanted is not None and mask & QpAttrMask.MAX_QP_RD_ATOMIC:
        attr.max_rd_atomic = wanted
    raw.modify(attributes_of(pyverbs, attr, mask), mask)
    return int(attr.port_num) if mask & QpAttrMask.PORT else None


def attributes_of(pyverbs: Any, attr: QpAttr, mask: int) -> Any:
    """The attributes in pyverbs' form."""
    result = pyverbs.QPAttr(qp_state=attr.qp_state)
    for name in _COPIED:
        setattr(result, name, getattr(attr, name))
    if mask & QpAttrMask.AV:
        ah = attr.ah_attr
        raw = bytes(ah)[:16].hex()
        route = pyverbs.GlobalRoute(
            dgid=pyverbs.GID(":".join(raw[at : at + 4] for at in range(0, 32, 4))),
            flow_label=ah.flow_label,
            sgid_index=ah.sgid_index,
            hop_limit=ah.hop_limit,
            traffic_class=ah.traffic_class,
        )
        result.ah_attr = pyverbs.AHAttr(
            dlid=ah.dlid,
            sl=ah.sl,
            src_path_bits=ah.src_path_bits,
            static_rate=ah.static_rate,
            is_global=ah.is_global,
            port_num=ah.port_num,
            gr=route,
        )
    return result


_COPIED: Final = (
    "cur_qp_state",
    "path_mtu",
    "path_mig_state",
    "qkey",
    "rq_psn",
    "sq_psn",
    "dest_qp_num",
    "qp_access_flags",
    "pkey_index",
    "max_rd_atomic",
    "max_dest_rd_atomic",
    "min_rnr_timer",
    "port_num",
    "timeout",
    "retry_cnt",
    "rnr_retry",
)
