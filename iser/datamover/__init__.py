"""The Datamover Architecture (RFC 5047) and its iSER datamover (RFC 7145)."""

from __future__ import annotations

from iser.datamover.api import (
    Datamover,
    DatamoverState,
    DatamoverUser,
    InitiatorDatamover,
    QuickCommands,
    QuickEnd,
    QuickPath,
    QuickStart,
    TargetDatamover,
    TargetDatamoverUser,
    TaskBuffers,
)
from iser.datamover.initiator import IserInitiator, IserInitiatorOptions
from iser.datamover.target import IserTarget

__all__ = [
    "Datamover",
    "DatamoverState",
    "DatamoverUser",
    "InitiatorDatamover",
    "IserInitiator",
    "IserInitiatorOptions",
    "IserTarget",
    "QuickCommands",
    "QuickEnd",
    "QuickPath",
    "QuickStart",
    "TargetDatamover",
    "TargetDatamoverUser",
    "TaskBuffers",
]
