"""A target of somebody else, in the guest."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final

from initiator.establish import Link, open_session, send_targets
from initiator.lun import Lun
from initiator.options import ConnectOptions
from initiator.url import Portal
from iser.login import TargetRecord
from tests.lab import Machine

__all__ = ["CHAP", "GUARD", "MUTUAL", "Connect", "TargetPeer"]

#: Takes options of a connection.
Connect = Callable[..., Awaitable[Lun]]

#: User and secret of our initiator, and of the target that proves itself; 12 to 16 characters, which all peers take.
CHAP: Final = ("alice", "alice-own-secret")
MUTUAL: Final = ("storage", "targets-secret")
#: Of our target's configuration, right behind a target: it wants both, whose secrets are in the environment.
GUARD: Final = f"""\
[[target.acl]]
initiator = "*"
chap = ["{CHAP[0]}"]
mutual = "{MUTUAL[0]}"
[chap.{CHAP[0]}]
secret_env = "USER_SECRET"
[chap.{MUTUAL[0]}]
secret_env = "TARGET_SECRET"
"""
_START_SECONDS: Final = 90.0


class TargetPeer(ABC):
    """What the tests of :class:`tests.interop.initiator_row.InitiatorRow` ask of a peer."""

    #: iSCSI name of its one target.
    name: str
    #: Number of its disk.
    lun = 0
    #: Bytes of its disk.
    size = 128 << 20
    #: Number of a disk whose reads take :data:`tests.interop.peers.slow.SLOW_SECONDS`.
    slow_lun = 1
    #: Why task management does not end commands that run; "" where it does.
    spares_commands = ""
    #: Address that leads to it.
    portal: str
    #: Name and address of a second target, with the same disk, that wants CHAP; see :meth:`guard`.
    guarded: tuple[str, str]
    #: Whether a target that can prove itself lets nobody in who does not ask for that.
    must_prove_itself = False
    #: How often a login of several requests is tried, as the peer may lose one and hang.
    login_tries = 1
    #: Options that our initiator needs with it.
    options: dict[str, Any]

    def __init__(self, lab: Machine) -> None:
        self.lab = lab
        self.options = {}

    async def connect(self, number: int | None = None, **options: Any) -> Lun:
        """A LUN of it, its usual one unless told, ready for I/O."""
        return await self._open(await self.log_in(**options), self.lun if number is None else number, options)

    async def connect_guarded(self, **options: Any) -> Lun:
        """The LUN behind CHAP."""
        name, portal = self.guarded
        link = await open_session(Portal.parse(portal), name, self._options(options))
        return await self._open(link, self.lun, options)

    async def _open(self, link: Link, number: int, options: dict[str, Any]) -> Lun:
        try:
            await asyncio.sleep(self.missing_seconds)
            return await Lun.open(link, number, self._options(options))
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
    #: And how many of them our initiator's own wait lacks where all is emulated.
    missing_seconds = 0.0
    kill_seconds = 60.0

    def start(self) -> None:
        """Serve, for the first time or again.  Raises LabError."""
        self.lab.run(self.start_script, seconds=_START_SECONDS)

    async def kill(self) -> None:
        """End at once, as a crash would; connections do not end in good order.  Raises LabError."""
        await self.lab.arun(self.kill_script, seconds=self.kill_seconds)

    def guard(self) -> None:  # noqa: B027 - most peers have nothing to do
        """Have ``guarded`` ready for another series of logins.  Raises LabError."""

    @property
    @abstractmethod
    def start_script(self) -> str:
        """What does :meth:`start` in the guest."""

    @property
    @abstractmethod
    def kill_script(self) -> str:
        """What does :meth:`kill` in the guest."""
