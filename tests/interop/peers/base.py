"""A target of somebody else, in the guest."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

import initiator
from initiator.lun import Lun
from tests.lab import Machine

__all__ = ["TargetPeer"]


class TargetPeer(ABC):
    """What the tests of :class:`tests.interop.initiator_row.InitiatorRow` ask of a peer."""

    #: iSCSI name of its one target.
    name: str
    #: Number of its disk.
    lun = 0
    #: Bytes of its disk.
    size = 128 << 20
    #: Address that leads to it.
    portal: str
    #: Options that our initiator needs with it.
    options: dict[str, Any]

    def __init__(self, lab: Machine) -> None:
        self.lab = lab
        self.options = {}

    @property
    def url(self) -> str:
        """Of its disk."""
        return f"iser://{self.portal}/{self.name}/{self.lun}"

    async def connect(self, **options: Any) -> Lun:
        """A LUN of it, ready for I/O."""
        lun = await initiator.connect(self.url, **{**self.options, **options})
        await asyncio.sleep(self.settle_seconds)
        return lun

    #: Seconds that the peer needs between a login and the first command.
    settle_seconds = 0.0

    @abstractmethod
    def start(self) -> None:
        """Serve, for the first time or again."""

    @abstractmethod
    async def kill(self) -> None:
        """End at once, as a crash would; connections must not end in good order."""
