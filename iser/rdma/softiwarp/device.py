"""The software RNIC as a verbs device: protection domains, memory, completion queues."""

from __future__ import annotations

import mmap

from iser.errors import ResourceError, UsageError
from iser.rdma.api import (
    CompletionHandler,
    CompletionQueue,
    Device,
    MemoryRegion,
    MrType,
    ProtectionDomain,
    QpCap,
    QueuePair,
)
from iser.rdma.softiwarp.cq import SoftCompletionQueue
from iser.rdma.softiwarp.memory import KeyTable, SoftMemoryRegion
from iser.rdma.softiwarp.options import MAX_KEYS, SoftIwarpOptions
from iser.rdma.softiwarp.qp import SoftQueuePair

__all__ = ["SoftDevice", "SoftProtectionDomain"]


class SoftProtectionDomain(ProtectionDomain):
    """See :class:`iser.rdma.api.ProtectionDomain`."""

    def __init__(self, device: SoftDevice) -> None:
        self._device = device
        self._closed = False

    def alloc_mr(self, kind: MrType, max_num_sg: int) -> MemoryRegion:
        if self._closed:
            raise UsageError("the protection domain is closed; allocate another one")
        attributes = self._device.attributes
        limit = attributes.max_page_list if kind is MrType.MEM_REG else attributes.max_sg_list
        if not 1 <= max_num_sg <= limit:
            raise ResourceError(f"a {kind.value} region of {max_num_sg} entries: the device has 1 to {limit}")
        return SoftMemoryRegion(self._device.keys, self, kind, max_num_sg, attributes.max_mr_bytes)

    def alloc_buffer(self, length: int) -> memoryview:
        if length < 1:
            raise UsageError(f"a buffer of {length} bytes: give at least 1")
        return memoryview(mmap.mmap(-1, length))

    def close(self) -> None:
        self._closed = True
        for region in self._regions():
            region.close()

    @property
    def valid_keys(self) -> int:
        return sum(region.valid for region in self._regions())

    def _regions(self) -> list[SoftMemoryRegion]:
        return [each for each in self._device.keys.regions.values() if each is not None and each.pd is self]


class SoftDevice(Device):
    """One RNIC; all its domains share the key table, as the key of a stranger must be told from an unknown one."""

    def __init__(self, options: SoftIwarpOptions, name: str = "softiwarp0") -> None:
        self.name = name
        self.options = options
        self.attributes = options.attributes
        self.keys = KeyTable(MAX_KEYS)

    def alloc_pd(self) -> SoftProtectionDomain:
        return SoftProtectionDomain(self)

    def create_cq(self, depth: int, handler: CompletionHandler) -> SoftCompletionQueue:
        if not 1 <= depth <= self.attributes.max_cqe:
            raise ResourceError(f"a completion queue of {depth}: the device has 1 to {self.attributes.max_cqe}")
        return SoftCompletionQueue(depth, handler)

    def create_qp(self, pd: ProtectionDomain, cq: CompletionQueue, cap: QpCap) -> QueuePair:
        limit = self.attributes.max_qp_wr
        if not (1 <= cap.max_send_wr <= limit and 1 <= cap.max_recv_wr <= limit):
            raise ResourceError(f"a queue pair of {cap.max_send_wr} and {cap.max_recv_wr}: the device has 1 to {limit}")
        if not isinstance(pd, SoftProtectionDomain) or not isinstance(cq, SoftCompletionQueue):
            raise UsageError("the protection domain and the completion queue must be of this device")
        return SoftQueuePair(self.keys, pd, cq, cap, self.options)
