"""A target device with some of its LUNs, under numbers of its own: what a rule lets an initiator see."""

from __future__ import annotations

from collections.abc import Mapping

from target.scsi import TargetDevice

__all__ = ["MappedDevice"]


class MappedDevice(TargetDevice):
    """``luns`` maps the numbers shown to those of ``whole``; numbers that it does not have are passed over.

    Logical units, their reservations and their unit attentions are those of ``whole``, which also closes them.
    """

    def __init__(self, whole: TargetDevice, luns: Mapping[int, int]) -> None:
        units = {shown: whole.luns[real] for shown, real in luns.items() if real in whole.luns}
        kept = [(unit, unit.neighbours, unit.abort_tasks, unit.running) for unit in units.values()]
        super().__init__(whole.name, units)
        for unit, neighbours, abort_tasks, running in kept:
            unit.neighbours, unit.abort_tasks, unit.running = neighbours, abort_tasks, running
        # A reset tells everybody, whatever number they know the unit by.
        self._nexuses = whole._nexuses
