"""The SCSI device server: transport-independent, tasks in, plans out."""

from __future__ import annotations

from target.scsi.device import TargetDevice
from target.scsi.nexus import Nexus
from target.scsi.plan import GOOD, Async, Done, Ordered, Plan, ReadMedia, ScsiTask, WriteMedia
from target.scsi.store import ReservationStore
from target.scsi.taskset import Command, TaskSet
from target.scsi.unit import Identity, LogicalUnit, UnitOptions

__all__ = [
    "GOOD",
    "Async",
    "Command",
    "Done",
    "Identity",
    "LogicalUnit",
    "Nexus",
    "Ordered",
    "Plan",
    "ReadMedia",
    "ReservationStore",
    "ScsiTask",
    "TargetDevice",
    "TaskSet",
    "UnitOptions",
    "WriteMedia",
]
