"""An open device of rdma-core: what it can, and its asynchronous events.  All that is made of it stands on this."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Final, Protocol

from iser.errors import ConnectionLost, IserError, ResourceError
from iser.rdma.api import DeviceAttributes, DeviceCap
from iser.rdma.verbs.constants import CAP_MEM_MGT_EXTENSIONS, NODE_TYPE_RNIC, PORT_ACTIVE, AsyncEvent
from iser.rdma.verbs.library import Pyverbs, device_error, event_descriptors, load_pyverbs
from iser.rdma.verbs.mlx5 import Mlx5, open_mlx5
from iser.rdma.verbs.mrcache import PAGE, RawRegion
from iser.rdma.verbs.options import VerbsOptions

__all__ = ["MAX_MESSAGE", "SYSFS", "OpenDevice", "node_type", "read_attributes"]

log = logging.getLogger("iser.rdma.verbs")

PAGE_LIST_FRAGMENTS: Final = 16  # elements of a page-list region where regions are indirect keys
PORT_GRACE: Final = 2.0  # seconds that a port may be down before its connections end
MAX_MESSAGE: Final = 1 << 30  # bytes of one region or request; devices have 2 GiB or 1 GiB
SYSFS: Final = "/sys/class/infiniband"


class Watched(Protocol):
    """What a device knows of a queue pair: the port that it uses, from 1, and how to end it."""

    name: str
    port: int

    def abort(self, reason: IserError) -> None: ...


class OpenDevice:
    """Opened once; :meth:`close` it when nothing made of it is in use.

    Raises ResourceError, with the fix, when it cannot be opened.
    """

    def __init__(self, name: str, options: VerbsOptions) -> None:
        self.name = name
        self.options = options
        self.pyverbs: Pyverbs = load_pyverbs()
        self.is_iwarp = node_type(name) == NODE_TYPE_RNIC
        self.mlx5: Mlx5 | None = open_mlx5(name) if options.indirect else None
        before = event_descriptors()
        try:
            self.context: Any = self.mlx5.context if self.mlx5 else self.pyverbs.Context(name=name)
            query = self.context.query_device()
        except self.pyverbs.Error as error:
            raise device_error(f"opening RDMA device {name}", error) from error
        self._event_fds = event_descriptors() - before
        self.attributes = read_attributes(query, self.mlx5)
        #: Set when the system takes the device away, which waits until all that was made of it is closed.
        self.removed = False
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pairs: set[Watched] = set()

    def make_pd(self) -> Any:
        """A protection domain of pyverbs."""
        try:
            return self.pyverbs.PD(self.context)
        except self.pyverbs.Error as error:
            raise device_error(f"allocating a protection domain on {self.name}", error) from error

    def make_mr(self, pd: Any, address: int, length: int, access: int) -> RawRegion:
        """Register memory.  Raises ResourceError."""
        try:
            region: RawRegion = self.pyverbs.MR(pd, length, access, address=address)
        except self.pyverbs.Error as error:
            problem = device_error(f"registering {length} bytes with {self.name}", error)
            raise ResourceError(str(problem)) from error
        return region

    def enter(self) -> None:
        """Something of this device is in use: listen to its events."""
        self._users += 1
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            for fd in self._event_fds:
                os.set_blocking(fd, False)
                loop.add_reader(fd, self._on_async_event)

    def leave(self) -> None:
        """Undo :meth:`enter`."""
        self._users -= 1
        if self._users:
            return
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            for fd in self._event_fds:
                loop.remove_reader(fd)
        if self.removed:
            self.close()

    def attach(self, pair: Watched) -> None:
        """A queue pair is alive."""
        self._pairs.add(pair)

    def detach(self, pair: Watched) -> None:
        """A queue pair is gone."""
        self._pairs.discard(pair)

    def close(self) -> None:
        """Close the device."""
        self.context.close()

    def _on_async_event(self) -> None:
        try:
            event = self.context.get_async_event()
        except self.pyverbs.Error:
            return  # nothing there after all
        number = int(event.event_type)
        event.ack()
        name = AsyncEvent(number).name if number in AsyncEvent._value2member_map_ else str(number)
        if number in _FATAL:
            # The event names no queue pair: whatever it hits, the device cannot be relied on.
            self._abort_all(ConnectionLost(f"RDMA device {self.name} reported {name}; reload its driver"))
        elif number in _NOTABLE:
            log.warning("RDMA device %s reported %s", self.name, name)
            if number == AsyncEvent.PORT_ERR and self._loop is not None:
                self._loop.call_later(PORT_GRACE, self._check_ports)
        else:
            log.debug("RDMA device %s reported %s", self.name, name)

    def _check_ports(self) -> None:
        """End the connections on ports that stayed down: nobody else would tell one that is idle."""
        for pair in list(self._pairs):
            try:
                if self.context.query_port(pair.port).state == PORT_ACTIVE:
                    continue
            except self.pyverbs.Error as error:
                log.debug("RDMA device %s: %s", self.name, error)
            pair.abort(ConnectionLost(f"{pair.name}: port {pair.port} of RDMA device {self.name} is down"))

    def _abort_all(self, reason: IserError) -> None:
        for pair in list(self._pairs):
            pair.abort(reason)


_FATAL: Final = frozenset((AsyncEvent.DEVICE_FATAL, AsyncEvent.CQ_ERR))
#: Errors of a queue pair show in its completions and connection events as well, which name it.
_NOTABLE: Final = frozenset((AsyncEvent.PORT_ERR, AsyncEvent.PORT_ACTIVE))


def node_type(name: str) -> int:
    """``enum ibv_node_type`` of a device: 1 for a channel adapter (InfiniBand, RoCE), 4 for iWARP.  0 if unknown."""
    try:
        with open(f"{SYSFS}/{name}/node_type", encoding="ascii") as file:
            return int(file.read().partition(":")[0])
    except (OSError, ValueError):
        return 0


def read_attributes(query: Any, mlx5: Mlx5 | None, page_size: int = PAGE) -> DeviceAttributes:
    """Our view of a device from ``ibv_query_device``.

    User memory cannot be registered or invalidated by work requests, so MEM_MGT_EXTENSIONS is only claimed where every
    region is an indirect key of mlx5, which can.
    """
    indirect = DeviceCap.MEM_MGT_EXTENSIONS | DeviceCap.SG_GAPS_REG
    caps = indirect if mlx5 is not None else DeviceCap(0)
    return DeviceAttributes(
        caps=caps,
        max_qp_wr=query.max_qp_wr,
        max_sge=max(1, query.max_sge),
        max_sge_rd=max(1, query.max_sge_rd),
        max_cqe=query.max_cqe,
        max_mr_bytes=min(query.max_mr_size or MAX_MESSAGE, MAX_MESSAGE),
        max_page_list=MAX_MESSAGE // page_size,
        max_sg_list=mlx5.max_list if mlx5 is not None else 1,
        max_qp_rd_atom=max(0, min(255, query.max_qp_rd_atom)),
        max_qp_init_rd_atom=max(0, min(255, query.max_qp_init_rd_atom)),
        page_size=page_size,
        max_fragments=PAGE_LIST_FRAGMENTS if mlx5 is not None else 1,
        send_with_invalidate=bool(query.device_cap_flags & CAP_MEM_MGT_EXTENSIONS),
    )
