"""A login in words of the case's own: any keys, flags and fields."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from initiator.conformance.probe import Probe
from initiator.conformance.verdict import Failure, Unusual
from iser.login import LoginStatus, Negotiation, Pair, Role, Wishes, decode_text, encode_text
from iser.pdu import (
    LOGIN_CONTINUE,
    LOGIN_CSG_SHIFT,
    LOGIN_STAGE_MASK,
    LOGIN_TRANSIT,
    LoginRequest,
    LoginResponse,
    Pdu,
    Stage,
)

__all__ = ["MAX_EXCHANGES", "Said", "Talk", "offers", "refused"]

MAX_EXCHANGES: Final = 8  # requests until a login that makes no progress counts as stuck


@dataclass(slots=True)
class Said:
    """What the target answered; ``status`` -1 if it closed the connection without a status."""

    status: int = -1
    pairs: dict[str, str] = field(default_factory=dict)
    responses: list[LoginResponse] = field(default_factory=list)
    done: bool = False


def offers(**changes: str | None) -> list[Pair]:
    """What our initiator offers in the operational stage, with some keys changed, added, or (None) left out."""
    pairs = dict(Negotiation(Role.INITIATOR, "iser", Wishes()).offers()) | changes
    return [(name, value) for name, value in pairs.items() if value is not None]


class Talk:
    """One login on one connection.  ``fields`` are those of every LoginRequest."""

    def __init__(self, probe: Probe, initiator_name: str, target_name: str) -> None:
        self.probe = probe
        self.fields: dict[str, Any] = {"isid": bytes((0x80,)) + os.urandom(5), "cid": 1, "cmd_sn": 1}
        self._names = (("InitiatorName", initiator_name), ("SessionType", "Normal"), ("TargetName", target_name))
        self.said = Said()

    def introduction(self, *without: str, **changes: str) -> list[Pair]:
        """The keys that open a login, without some, or with others' values."""
        return [(name, changes.get(name, value)) for name, value in self._names if name not in without]

    def send(self, data: bytes, csg: int, nsg: int | None, *, more: bool = False, flags: int = 0) -> None:
        """One request; ``nsg`` None leaves T out, ``more`` sets C; ``flags`` are set besides."""
        if nsg == Stage.FULL_FEATURE:
            self.probe.allocate_connection_resources(self.probe.receives)
        flags |= csg << LOGIN_CSG_SHIFT | (0 if nsg is None else LOGIN_TRANSIT | nsg) | (LOGIN_CONTINUE if more else 0)
        self.probe.send_control(Pdu(LoginRequest(flags=flags, **self.fields), data))

    async def receive(self) -> LoginResponse | None:
        """The next response, taken into :attr:`said`; None if the target closes the connection instead."""
        arrival = await self.probe.anything()
        if arrival is None:
            if self.probe.end:
                return None
            raise Failure("the login hangs: no response, and the connection stays open")
        bhs = arrival.bhs
        if not isinstance(bhs, LoginResponse):
            raise Failure(f"a {type(bhs).__name__} came during login")
        said = self.said
        said.responses.append(bhs)
        said.status = bhs.status_class << 8 | bhs.status_detail
        said.pairs |= dict(decode_text(arrival.pdu.data, unique=False))
        said.done = not said.status and bool(bhs.flags & LOGIN_TRANSIT) and bhs.flags & LOGIN_STAGE_MASK == 3
        return bhs

    async def exchange(
        self, pairs: Iterable[Pair], csg: int = Stage.OPERATIONAL, nsg: int | None = Stage.FULL_FEATURE
    ) -> LoginResponse | None:
        """One request with ``pairs``, and its response."""
        self.send(encode_text(pairs), csg, nsg)
        return await self.receive()

    async def log_in(self, pairs: Sequence[Pair], csg: int = Stage.OPERATIONAL) -> Said:
        """Say ``pairs`` and go on, agreeing to what the target offers itself, until it ends the login either way."""
        known = {name for name, _ in pairs}
        for _ in range(MAX_EXCHANGES):
            before = set(self.said.pairs)
            response = await self.exchange(pairs, csg)
            if response is None or self.said.status or self.said.done:
                return self.said
            new = {name: value for name, value in self.said.pairs.items() if name not in before | known}
            pairs = [(name, value) for name, value in new.items() if not name.startswith("Target") or "Recv" in name]
        raise Failure(f"the login makes no progress in {MAX_EXCHANGES} exchanges")


def refused(said: Said, what: str, *usual: LoginStatus) -> None:
    """Pass when the login ended in one of ``usual``.

    Another status of the initiator's class, or a closed connection without one, is Unusual; a login that went on is a
    Failure.
    """
    if said.status in usual:
        return
    names = " or ".join(f"{status.value:04x}" for status in usual)
    if said.status == -1:
        raise Unusual(f"{what} closes the connection without a login status; the standard has {names} for it")
    if said.status >> 8 in (0x02, 0x03):
        raise Unusual(f"{what} is answered with status {said.status:04x}; the standard has {names} for it")
    raise Failure(f"{what} is not refused (status {said.status:04x}); the standard has {names} for it")
