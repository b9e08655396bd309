"""The target under test, and how a case gets to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from initiator.conformance.probe import PATIENCE, QUIET, Answer, Probe
from initiator.conformance.talk import Talk
from initiator.conformance.verdict import Failure, Skipped
from initiator.establish import settle_time
from initiator.options import ConnectOptions
from initiator.url import Portal
from iser.datamover.cm import build_private_data, invalidation_offered
from iser.errors import IserError, LoginError, TextError
from iser.login import InitiatorLogin, InitiatorLoginConfig, LoginResult, TargetAddress, Wishes, decode_text
from iser.pdu import Pdu
from iser.rdma.api import Provider
from iser.scsi.cdb import read_blocks, test_unit_ready, write_blocks
from iser.scsi.lun import encode_lun

__all__ = ["CONNECT_TIMEOUT", "MAX_ATTENTIONS", "Place", "Session", "Site"]

CONNECT_TIMEOUT: Final = 5.0  # seconds
MAX_ATTENTIONS: Final = 8  # unit attentions to clear after a login
_CHECK_CONDITION: Final = 2
_ISID_RANDOM: Final = 0x80


class Session(Probe):
    """A probe that has logged in; ``result`` is what was agreed."""

    result: LoginResult
    block_size: int

    async def log_in(self, config: InitiatorLoginConfig) -> None:
        """Log in as ``config`` says.  Raises LoginError, NegotiationError, and Failure where no answer comes."""
        login = InitiatorLogin(config)
        request: Pdu | None = login.start()
        while request is not None:
            if login.request_is_final:
                self.allocate_connection_resources(self.receives)
            self.send_control(request)
            arrival = await self.anything()
            if arrival is None:
                ended = f"the connection ended: {self.end}" if self.end else "nothing came"
                raise Failure(f"no answer to a login request: {ended}")
            request = login.receive(arrival.pdu)
        self.result = login.result
        self.notice_key_values(login.result.params)
        self.enable_datamover()
        self.cmd_sn = login.result.cmd_sn
        self.first_stat_sn = login.result.exp_stat_sn
        self.numbers.clear()  # those of the login are checked by its own cases

    @property
    def max_cmd_sn(self) -> int:
        """The last MaxCmdSN that came."""
        return self.numbers[-1][2] if self.numbers else self.result.max_cmd_sn

    @property
    def window(self) -> int:
        """How many commands may be sent now."""
        return (self.max_cmd_sn - self.cmd_sn + 1) & 0xFFFFFFFF

    async def read(self, lba: int, blocks: int, **how: Any) -> bytes:
        """Blocks, by a plain READ."""
        region = self.read_region(blocks * self.block_size, **how)
        return (await self.good(read_blocks(lba, blocks), read=region)).data

    async def write(self, lba: int, data: bytes) -> Answer:
        """Blocks, by a plain WRITE whose data is all solicited."""
        return await self.good(write_blocks(lba, len(data) // self.block_size), write=self.write_region(data))


@dataclass(slots=True)
class Place:
    """A portal, and after a redirection the one that it named."""

    portal: Portal

    def follow(self, text: bytes) -> None:
        """Go where a login response says; an address that is none is for the case to complain about."""
        try:
            address = TargetAddress.parse(dict(decode_text(text, unique=False)).get("TargetAddress", ""))
        except TextError:
            return
        self.portal = self.portal._replace(host=address.host, port=address.port)


@dataclass(slots=True)
class Site:
    """Where to go, and what :func:`initiator.conformance.survey.survey` found there; ``settle`` in seconds."""

    provider: Provider
    #: Shared by all copies of a site: where one case was sent, the others go.
    place: Place
    target: str
    lun: int
    options: ConnectOptions
    initiator_name: str
    settle: float = 0.0
    block_size: int = 512
    blocks: int = 0
    max_transfer: int = 0
    #: Seconds to wait for an answer that must come.
    patience: float = PATIENCE
    #: Seconds in which nothing may come, where nothing must.
    quiet: float = QUIET
    #: Whether the case that runs may write.
    writes: bool = False

    @asynccontextmanager
    async def connected(self, *, private_data: bytes | None = None) -> AsyncIterator[Session]:
        """A connection that has not logged in.  ``private_data`` is what the request carries, else our usual bytes."""
        data = build_private_data(remote_invalidate=True) if private_data is None else private_data
        portal = self.place.portal
        session = await Session.connect(self.provider, portal.host, portal.port, data, CONNECT_TIMEOUT)
        session.lun = encode_lun(self.lun)
        session.block_size = self.block_size
        session.patience, session.quiet = self.patience, self.quiet
        try:
            yield session
        finally:
            await session.close()
            if session.redirection is not None:
                self.place.follow(session.redirection)

    @asynccontextmanager
    async def talk(self) -> AsyncIterator[Talk]:
        """A connection for a login that the case words itself."""
        async with self.connected() as session:
            yield Talk(session, self.initiator_name, self.target)

    @asynccontextmanager
    async def session(
        self, wishes: Wishes | None = None, *, private_data: bytes | None = None, settled: bool = True, **changes: Any
    ) -> AsyncIterator[Session]:
        """A normal session, its unit attentions taken; ``changes`` are fields of InitiatorLoginConfig.

        Without ``settled`` the first command follows the login at once, whatever the target is known to need.
        """
        async with self.connected(private_data=private_data) as session:
            await self._log_in(session, wishes, {"target_name": self.target} | changes)
            if settled:
                await self._settle(session)
            await self.clear_attentions(session)
            yield session

    @asynccontextmanager
    async def discovery(self, **changes: Any) -> AsyncIterator[Session]:
        """A discovery session."""
        async with self.connected() as session:
            await self._log_in(session, None, {"discovery": True} | changes)
            await self._settle(session)
            yield session

    async def _settle(self, session: Session) -> None:
        """Wait as long as we were told to before writes, and as a target with a window of one command needs (tgt)."""
        login = session.result
        known = settle_time(login) if login.max_cmd_sn == login.cmd_sn else 0.0
        await asyncio.sleep(max(known, self.settle if self.writes else 0.0))

    async def _log_in(self, session: Session, wishes: Wishes | None, changes: dict[str, Any]) -> None:
        who: dict[str, Any] = {"initiator_name": self.initiator_name, "isid": new_isid(), "wishes": wishes or Wishes()}
        try:
            await session.log_in(InitiatorLoginConfig(**(who | changes)))
        except (Failure, Skipped):
            raise
        except LoginError as error:
            raise Failure(f"the login was refused: {error}") from error
        except IserError as error:
            raise Failure(f"the login went wrong: {error}") from error

    @staticmethod
    async def clear_attentions(session: Session) -> None:
        """TEST UNIT READY until it succeeds; Failure if it does not."""
        for _ in range(MAX_ATTENTIONS):
            answer = await session.command(test_unit_ready())
            if not answer.bhs.status:
                return
            if answer.bhs.status != _CHECK_CONDITION:
                break
        raise Failure(f"TEST UNIT READY ends in status {answer.bhs.status:#04x}, sense {answer.sense[:18].hex()}")

    @property
    def scratch(self) -> int:
        """Blocks that destructive cases may write, from LBA 0 on."""
        return min(self.blocks, (1 << 20) // self.block_size)

    @staticmethod
    def offers_invalidation(session: Session) -> bool:
        """Whether both sides agreed to Send with Invalidate."""
        return session.invalidation and invalidation_offered(session.offered)


def new_isid() -> bytes:
    """A random ISID."""
    return bytes((_ISID_RANDOM,)) + os.urandom(5)
