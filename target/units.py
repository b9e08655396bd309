"""Make logical units, and the targets that hold them, from the configuration."""

from __future__ import annotations

from typing import Final

from iser.errors import BackendError, UsageError
from target.backends.base import Backend
from target.backends.fault import Fault, FaultFilter
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.config import Config, LunConfig, TargetConfig
from target.registry import ServedTarget
from target.scsi import Identity, LogicalUnit, TargetDevice

__all__ = ["open_backend", "open_targets"]

_NO_SIZE: Final = 'needs a size; write size = "256M"'


async def open_targets(config: Config) -> list[ServedTarget]:
    """Open every backend.  Raises UsageError or BackendError with all that was opened closed again."""
    opened: list[ServedTarget] = []
    try:
        opened.extend(_open_target(target, config.limits.max_transfer) for target in config.target)
    except (UsageError, BackendError):
        for served in opened:
            await served.device.close()
        raise
    return opened


def open_backend(lun: LunConfig, name: str) -> Backend:
    """The store of one LUN, under its fault filters.  Raises UsageError or BackendError."""
    backend: Backend
    if lun.path is not None:
        backend = FileBackend(
            lun.path, lun.size, block_size=lun.block_size, read_only=lun.read_only, threads=lun.threads
        )
    elif lun.size is not None:
        backend = MemoryBackend(lun.size, block_size=lun.block_size, read_only=lun.read_only, name=name)
    else:
        raise UsageError(f"{name} {_NO_SIZE}")
    if lun.faults:
        faults = [Fault(fault.on, fault.action, fault.nth, fault.count, fault.seconds) for fault in lun.faults]
        return FaultFilter(backend, faults)
    return backend


def _open_target(target: TargetConfig, max_transfer: int) -> ServedTarget:
    units = {
        lun.id: LogicalUnit(
            open_backend(lun, f"{target.name} LUN {lun.id}"),
            Identity.derive(target.name, lun.id, lun.serial, lun.product),
            max_transfer=max_transfer,
            descriptor_sense=lun.descriptor_sense,
        )
        for lun in target.lun
    }
    return ServedTarget(TargetDevice(target.name, units), target.alias)
