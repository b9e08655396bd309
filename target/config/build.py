"""From a configuration to the devices that serve it."""

from __future__ import annotations

from iser.errors import UsageError
from target.backends.base import Backend
from target.backends.fault import Fault, FaultFilter
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.config.model import LimitsConfig, LunConfig, TargetConfig
from target.scsi import Identity, LogicalUnit, TargetDevice

__all__ = ["build_device", "open_backend"]


def open_backend(lun: LunConfig) -> Backend:
    """Open the backend of ``lun``, with its faults on top.  Raises BackendError or UsageError."""
    backend = _open_plain(lun)
    if not lun.faults:
        return backend
    faults = [Fault(fault.on, fault.action, fault.nth, fault.count, fault.seconds) for fault in lun.faults]
    return FaultFilter(backend, faults)


def _open_plain(lun: LunConfig) -> Backend:
    if lun.backend == "file":
        if lun.path is None:
            raise UsageError(f"LUN {lun.id} has no path; a file LUN needs one")
        return FileBackend(lun.path, lun.size, block_size=lun.block_size, read_only=lun.read_only, threads=lun.threads)
    if lun.size is None:
        raise UsageError(f"LUN {lun.id} has no size; a memory LUN needs one")
    return MemoryBackend(lun.size, block_size=lun.block_size, read_only=lun.read_only, name=f"memory LUN {lun.id}")


async def build_device(target: TargetConfig, limits: LimitsConfig) -> TargetDevice:
    """Open every backend of ``target``.  Raises BackendError or UsageError, with none left open."""
    units: dict[int, LogicalUnit] = {}
    try:
        for lun in target.lun:
            units[lun.id] = LogicalUnit(
                open_backend(lun),
                Identity.derive(target.name, lun.id, lun.serial, lun.product),
                max_transfer=limits.max_transfer,
                descriptor_sense=lun.descriptor_sense,
            )
    except BaseException:
        for unit in units.values():
            await unit.backend.close()
        raise
    return TargetDevice(target.name, units)
