"""Numbers of verbs and of the RDMA connection manager, as ``infiniband/verbs.h`` and ``rdma/rdma_cma.h`` have them.

pyverbs moved and renamed its own between versions, and its flag classes cost a microsecond for an ``or``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "ACCESS_LOCAL_WRITE",
    "ACCESS_REMOTE_READ",
    "ACCESS_REMOTE_WRITE",
    "CAP_MEM_MGT_EXTENSIONS",
    "INIT_ATTR_PD",
    "INIT_ATTR_SEND_OPS",
    "NODE_TYPE_RNIC",
    "OP_RDMA_READ",
    "OP_RDMA_WRITE",
    "OP_SEND",
    "OP_SEND_WITH_INV",
    "OPS_LOCAL_INV",
    "OPS_READ",
    "OPS_SEND",
    "OPS_SEND_WITH_INV",
    "OPS_WRITE",
    "PORT_ACTIVE",
    "QPS_ERR",
    "QPS_INIT",
    "QPS_RTR",
    "QPS_RTS",
    "QPT_RC",
    "SEND_INLINE",
    "SEND_SIGNALED",
    "TRANSPORT_IWARP",
    "WC_INVALIDATED",
    "AsyncEvent",
    "CmEventType",
    "QpAttrMask",
]

ACCESS_LOCAL_WRITE: Final = 1
ACCESS_REMOTE_WRITE: Final = 2
ACCESS_REMOTE_READ: Final = 4

CAP_MEM_MGT_EXTENSIONS: Final = 1 << 21

OP_RDMA_WRITE: Final = 0
OP_SEND: Final = 2
OP_RDMA_READ: Final = 4
OP_SEND_WITH_INV: Final = 9

SEND_SIGNALED: Final = 2
SEND_INLINE: Final = 8

#: IBV_WC_WITH_INV is 8; rxe hands up the kernel's number for it, 4, which means nothing else on an RC queue pair.
WC_INVALIDATED: Final = 8 | 4

PORT_ACTIVE: Final = 4  # enum ibv_port_state

#: Fields of ``ibv_qp_init_attr_ex`` that are given, by its ``comp_mask``.
INIT_ATTR_PD: Final = 1 << 0
INIT_ATTR_SEND_OPS: Final = 1 << 6
#: ``enum ibv_qp_create_send_ops_flags``.
OPS_WRITE: Final = 1 << 0
OPS_SEND: Final = 1 << 2
OPS_READ: Final = 1 << 4
OPS_LOCAL_INV: Final = 1 << 7
OPS_SEND_WITH_INV: Final = 1 << 9

QPT_RC: Final = 2
QPS_INIT: Final = 1
QPS_RTR: Final = 2
QPS_RTS: Final = 3
QPS_ERR: Final = 6

NODE_TYPE_RNIC: Final = 4
TRANSPORT_IWARP: Final = 1


class QpAttrMask:
    """``enum ibv_qp_attr_mask``, as plain integers."""

    STATE: Final = 1 << 0
    ACCESS_FLAGS: Final = 1 << 3
    PORT: Final = 1 << 5
    AV: Final = 1 << 7
    MAX_QP_RD_ATOMIC: Final = 1 << 13
    MIN_RNR_TIMER: Final = 1 << 15
    MAX_DEST_RD_ATOMIC: Final = 1 << 17


class CmEventType(IntEnum):
    """``enum rdma_cm_event_type``."""

    ADDR_RESOLVED = 0
    ADDR_ERROR = 1
    ROUTE_RESOLVED = 2
    ROUTE_ERROR = 3
    CONNECT_REQUEST = 4
    CONNECT_RESPONSE = 5
    CONNECT_ERROR = 6
    UNREACHABLE = 7
    REJECTED = 8
    ESTABLISHED = 9
    DISCONNECTED = 10
    DEVICE_REMOVAL = 11
    MULTICAST_JOIN = 12
    MULTICAST_ERROR = 13
    ADDR_CHANGE = 14
    TIMEWAIT_EXIT = 15


class AsyncEvent(IntEnum):
    """``enum ibv_event_type``."""

    CQ_ERR = 0
    QP_FATAL = 1
    QP_REQ_ERR = 2
    QP_ACCESS_ERR = 3
    COMM_EST = 4
    SQ_DRAINED = 5
    PATH_MIG = 6
    PATH_MIG_ERR = 7
    DEVICE_FATAL = 8
    PORT_ACTIVE = 9
    PORT_ERR = 10
    LID_CHANGE = 11
    PKEY_CHANGE = 12
    SM_CHANGE = 13
    SRQ_ERR = 14
    SRQ_LIMIT_REACHED = 15
    QP_LAST_WQE_REACHED = 16
    CLIENT_REREGISTER = 17
    GID_CHANGE = 18
    WQ_FATAL = 19
