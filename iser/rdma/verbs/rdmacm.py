"""The part of librdmacm that is needed, through ctypes: identifiers, events, the attributes of a queue pair.

Nothing here waits but :meth:`CmLibrary.connect` on iWARP.  Errors are OSError, to be mapped by whoever knows the peer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from ctypes import POINTER, c_char_p, c_int, c_uint8, c_uint16, c_uint32, c_void_p
from functools import cache
from typing import Any, Final, NamedTuple

from iser.errors import ResourceError
from iser.rdma.verbs.constants import CmEventType

__all__ = [
    "CM_NODE",
    "RDMA_PS_TCP",
    "CmEvent",
    "CmLibrary",
    "ConnParam",
    "QpAttr",
    "RdmaCmEvent",
    "RdmaCmId",
    "load_rdmacm",
    "pack_address",
    "parse_event",
    "unpack_address",
]

CM_NODE: Final = "/dev/infiniband/rdma_cm"
RDMA_PS_TCP: Final = 0x0106
_STORAGE: Final = 128  # bytes of a struct sockaddr_storage


class _Route(ctypes.Structure):
    _fields_: Final = [  # type: ignore[misc]  # ctypes wants a plain class attribute, here and below
        ("src", c_uint8 * _STORAGE),
        ("dst", c_uint8 * _STORAGE),
        ("ib", ctypes.c_uint64 * 5),
        ("path_rec", c_void_p),
        ("num_paths", c_int),
    ]


class _Context(ctypes.Structure):
    """The head of ``struct ibv_context``."""

    _fields_: Final = [("device", c_void_p)]  # type: ignore[misc]


class RdmaCmId(ctypes.Structure):
    """``struct rdma_cm_id``."""

    _fields_: Final = [  # type: ignore[misc]
        ("verbs", POINTER(_Context)),
        ("channel", c_void_p),
        ("context", c_void_p),
        ("qp", c_void_p),
        ("route", _Route),
        ("ps", c_int),
        ("port_num", c_uint8),
        ("event", c_void_p),
        ("send_cq_channel", c_void_p),
        ("send_cq", c_void_p),
        ("recv_cq_channel", c_void_p),
        ("recv_cq", c_void_p),
        ("srq", c_void_p),
        ("pd", c_void_p),
        ("qp_type", c_int),
    ]


class ConnParam(ctypes.Structure):
    """``struct rdma_conn_param``."""

    _fields_: Final = [  # type: ignore[misc]
        ("private_data", c_void_p),
        ("private_data_len", c_uint8),
        ("responder_resources", c_uint8),
        ("initiator_depth", c_uint8),
        ("flow_control", c_uint8),
        ("retry_count", c_uint8),
        ("rnr_retry_count", c_uint8),
        ("srq", c_uint8),
        ("qp_num", c_uint32),
    ]


class RdmaCmEvent(ctypes.Structure):
    """``struct rdma_cm_event``, of which a datagram's parameters are left out."""

    _fields_: Final = [  # type: ignore[misc]
        ("id", c_void_p),
        ("listen_id", c_void_p),
        ("event", c_int),
        ("status", c_int),
        ("conn", ConnParam),
    ]


class _Channel(ctypes.Structure):
    _fields_: Final = [("fd", c_int)]  # type: ignore[misc]


class _AhAttr(ctypes.Structure):
    _fields_: Final = [  # type: ignore[misc]
        ("dgid", ctypes.c_uint64 * 2),
        ("flow_label", c_uint32),
        ("sgid_index", c_uint8),
        ("hop_limit", c_uint8),
        ("traffic_class", c_uint8),
        ("dlid", c_uint16),
        ("sl", c_uint8),
        ("src_path_bits", c_uint8),
        ("static_rate", c_uint8),
        ("is_global", c_uint8),
        ("port_num", c_uint8),
    ]


class QpAttr(ctypes.Structure):
    """``struct ibv_qp_attr``."""

    _fields_: Final = [  # type: ignore[misc]
        ("qp_state", c_int),
        ("cur_qp_state", c_int),
        ("path_mtu", c_int),
        ("path_mig_state", c_int),
        ("qkey", c_uint32),
        ("rq_psn", c_uint32),
        ("sq_psn", c_uint32),
        ("dest_qp_num", c_uint32),
        ("qp_access_flags", c_uint32),
        ("cap", c_uint32 * 5),
        ("ah_attr", _AhAttr),
        ("alt_ah_attr", _AhAttr),
        ("pkey_index", c_uint16),
        ("alt_pkey_index", c_uint16),
        ("en_sqd_async_notify", c_uint8),
        ("sq_draining", c_uint8),
        ("max_rd_atomic", c_uint8),
        ("max_dest_rd_atomic", c_uint8),
        ("min_rnr_timer", c_uint8),
        ("port_num", c_uint8),
        ("timeout", c_uint8),
        ("retry_cnt", c_uint8),
        ("rnr_retry", c_uint8),
        ("alt_port_num", c_uint8),
        ("alt_timeout", c_uint8),
        ("rate_limit", c_uint32),
    ]


class CmEvent(NamedTuple):
    """A copied event.  ``identifier`` and ``listener`` are addresses; depths are in our own terms."""

    type: CmEventType
    status: int
    identifier: int
    listener: int
    private_data: bytes
    responder_resources: int
    initiator_depth: int


_WITH_PARAMETERS: Final = frozenset(
    (CmEventType.CONNECT_REQUEST, CmEventType.CONNECT_RESPONSE, CmEventType.REJECTED, CmEventType.ESTABLISHED)
)


def parse_event(raw: RdmaCmEvent) -> CmEvent:
    """Copy an event before it is acknowledged and its memory gone."""
    kind = CmEventType(raw.event)
    if kind not in _WITH_PARAMETERS:
        return CmEvent(kind, raw.status, raw.id or 0, raw.listen_id or 0, b"", 0, 0)
    conn = raw.conn
    data = ctypes.string_at(conn.private_data, conn.private_data_len) if conn.private_data else b""
    return CmEvent(
        kind, raw.status, raw.id or 0, raw.listen_id or 0, data, conn.responder_resources, conn.initiator_depth
    )


class CmLibrary:
    """librdmacm; a pointer is an int."""

    def __init__(self, rdmacm: Any, ibverbs: Any) -> None:
        self._cm = rdmacm
        self._ibverbs = ibverbs
        rdmacm.rdma_create_event_channel.restype = POINTER(_Channel)
        ibverbs.ibv_get_device_name.restype = c_char_p
        ibverbs.ibv_get_device_name.argtypes = [c_void_p]
        rdmacm.rdma_get_src_port.restype = c_uint16
        rdmacm.rdma_get_src_port.argtypes = [c_void_p]

    def create_channel(self) -> tuple[int, int]:
        """The channel and its descriptor, which does not block."""
        channel = self._cm.rdma_create_event_channel()
        if not channel:
            error = _os_error("rdma_create_event_channel")
            # The library says that there is no such file even where it may not be opened.
            if os.path.exists(CM_NODE) and not os.access(CM_NODE, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, f"{CM_NODE}: {os.strerror(errno.EACCES)}") from error
            raise error
        fd = channel.contents.fd
        os.set_blocking(fd, False)
        return ctypes.addressof(channel.contents), fd

    def destroy_channel(self, channel: int) -> None:
        self._cm.rdma_destroy_event_channel(c_void_p(channel))

    def get_event(self, channel: int) -> CmEvent | None:
        """The next event, acknowledged; None when there is none."""
        event = POINTER(RdmaCmEvent)()
        if self._cm.rdma_get_cm_event(c_void_p(channel), ctypes.byref(event)):
            return None
        try:
            return parse_event(event.contents)
        finally:
            self._cm.rdma_ack_cm_event(event)

    def create_id(self, channel: int) -> int:
        identifier = c_void_p()
        self._check(
            "rdma_create_id", self._cm.rdma_create_id(c_void_p(channel), ctypes.byref(identifier), None, RDMA_PS_TCP)
        )
        assert identifier.value is not None
        return identifier.value

    def destroy_id(self, identifier: int) -> None:
        self._cm.rdma_destroy_id(c_void_p(identifier))

    def bind(self, identifier: int, address: bytes) -> None:
        self._check("rdma_bind_addr", self._cm.rdma_bind_addr(c_void_p(identifier), address))

    def listen(self, identifier: int, backlog: int) -> None:
        self._check("rdma_listen", self._cm.rdma_listen(c_void_p(identifier), backlog))

    def resolve_addr(self, identifier: int, address: bytes, timeout: float) -> None:
        self._check(
            "rdma_resolve_addr",
            self._cm.rdma_resolve_addr(c_void_p(identifier), None, address, int(timeout * 1000)),
        )

    def resolve_route(self, identifier: int, timeout: float) -> None:
        self._check("rdma_resolve_route", self._cm.rdma_resolve_route(c_void_p(identifier), int(timeout * 1000)))

    def connect(self, identifier: int, param: ConnParam) -> None:
        """Ask the peer.  On iWARP this waits for its TCP connection, without the interpreter's lock."""
        self._check("rdma_connect", self._cm.rdma_connect(c_void_p(identifier), ctypes.byref(param)))

    def establish(self, identifier: int) -> None:
        self._check("rdma_establish", self._cm.rdma_establish(c_void_p(identifier)))

    def accept(self, identifier: int, param: ConnParam) -> None:
        self._check("rdma_accept", self._cm.rdma_accept(c_void_p(identifier), ctypes.byref(param)))

    def reject(self, identifier: int, private_data: bytes) -> None:
        self._check("rdma_reject", self._cm.rdma_reject(c_void_p(identifier), private_data, len(private_data)))

    def disconnect(self, identifier: int) -> None:
        self._check("rdma_disconnect", self._cm.rdma_disconnect(c_void_p(identifier)))

    def notify_established(self, identifier: int, event: int) -> None:
        self._check("rdma_notify", self._cm.rdma_notify(c_void_p(identifier), event))

    def init_qp_attr(self, identifier: int, state: int) -> tuple[QpAttr, int]:
        """The attributes of a transition to ``state``, and their mask."""
        attr, mask = QpAttr(qp_state=state), c_int()
        self._check(
            "rdma_init_qp_attr",
            self._cm.rdma_init_qp_attr(c_void_p(identifier), ctypes.byref(attr), ctypes.byref(mask)),
        )
        return attr, mask.value

    def device_name(self, identifier: int) -> str:
        """The device that an identifier is bound to; "" for none, which is normal for a wildcard address."""
        verbs = RdmaCmId.from_address(identifier).verbs
        if not verbs:
            return ""
        name: bytes = self._ibverbs.ibv_get_device_name(verbs.contents.device)
        return name.decode()

    def addresses(self, identifier: int) -> tuple[tuple[str, int], tuple[str, int]]:
        """Local and remote host and port."""
        route = RdmaCmId.from_address(identifier).route
        return unpack_address(bytes(route.src)), unpack_address(bytes(route.dst))

    def source_port(self, identifier: int) -> int:
        port: int = self._cm.rdma_get_src_port(c_void_p(identifier))
        return socket.ntohs(port)

    @staticmethod
    def _check(what: str, result: int) -> None:
        if result:
            raise _os_error(what)


def _os_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


_EXPECTED_SIZES: Final = ((RdmaCmId, 416), (QpAttr, 144), (_AhAttr, 32), (RdmaCmEvent, 48))


@cache
def load_rdmacm() -> CmLibrary:
    """Load librdmacm.  Raises ResourceError, with the fix."""
    for kind, size in _EXPECTED_SIZES:
        if ctypes.sizeof(kind) != size:
            raise ResourceError(
                f"provider verbs does not know this processor's struct layouts ({kind.__name__} has "
                f"{ctypes.sizeof(kind)} bytes); choose provider=softiwarp"
            )
    try:
        return CmLibrary(ctypes.CDLL("librdmacm.so.1", use_errno=True), ctypes.CDLL("libibverbs.so.1", use_errno=True))
    except OSError as error:
        raise ResourceError(
            f"provider verbs needs librdmacm ({error}); install rdma-core, or choose provider=softiwarp"
        ) from error


def pack_address(family: int, address: tuple[Any, ...]) -> bytes:
    """A ``struct sockaddr_in`` or ``sockaddr_in6`` from what the socket module calls an address."""
    head = struct.pack("=H", family) + struct.pack("!H", address[1])
    if family == socket.AF_INET:
        return head + socket.inet_aton(address[0]) + bytes(8)
    host = address[0].partition("%")[0]
    return head + struct.pack("!I", address[2]) + socket.inet_pton(family, host) + struct.pack("=I", address[3])


def unpack_address(raw: bytes) -> tuple[str, int]:
    """Host and port of a socket address; ``("", 0)`` for one that is empty or of a family without them."""
    family, port = struct.unpack("=H", raw[:2])[0], struct.unpack("!H", raw[2:4])[0]
    if family == socket.AF_INET:
        return socket.inet_ntoa(raw[4:8]), port
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, raw[8:24]), port
    return "", 0
