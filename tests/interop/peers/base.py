"""A target of somebody else, in the guest."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from initiator.establish import Link, open_session, send_targets
from initiator.lun import Lun
from initiator.options import ConnectOptions
from initiator.url import Portal
from iser.login import TargetRecord
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

    async def connect(self, **options: Any) -> Lun:
        """A LUN of it, ready for I/O."""
        link = await self.log_in(**options)
        try:
            await asyncio.sleep(self.settle_seconds)
            return await Lun.open(link, self.lun, self._options(options))
        except BaseException:
            await link.session.close()
            raise

    async def log_in(self, **options: Any) -> Link:
        """A session, right after its login."""
        return await open_session(Portal.parse(self.portal), self.name, self._options(options))

    async def discover(self) -> list[TargetRecord]:
        """What the peer says of its targets."""
        link = await open_session(Portal.parse(self.portal), "", self._options({}))
        try:
            await asyncio.sleep(self.settle_seconds)
            return await send_targets(link.session, link.session.timeout)
        finally:
            await link.session.close()

    def _options(self, options: dict[str, Any]) -> ConnectOptions:
        return ConnectOptions(**{**self.options, **options})

    #: Why the peer must not have writes on their way when a connection ends; "" if it may.
    cut_note = ""
    #: Seconds that the peer needs between a login and the first command.
    settle_seconds = 0.0

    @abstractmethod
    def start(self) -> None:
        """Serve, for the first time or again."""

    @abstractmethod
    async def kill(self) -> None:
        """End at once, as a crash would; connections must not end in good order."""
