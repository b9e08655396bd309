"""What both login machines share: the stages and their legal transitions (RFC 7143 section 6.3), and one PDU's text.

``None`` for a stage is the state before the first request; ``None`` for NSG is a PDU without the T bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from iser.errors import PduError, TextError
from iser.login.params import LOGIN_DATA_LENGTH
from iser.login.text import Pair, TextAssembler, decode_text, encode_text, split_text
from iser.pdu.codec import Pdu
from iser.pdu.const import LOGIN_CONTINUE, LOGIN_CSG_SHIFT, LOGIN_STAGE_MASK, LOGIN_TRANSIT, Stage

__all__ = ["MAX_LOGIN_PDUS", "NEXT_STAGE", "LoginFlags", "LoginText", "login_flags", "next_stage"]

MAX_LOGIN_PDUS: Final = 64  # requests of one login

# (where we are, CSG, NSG) -> where the PDU leads.
NEXT_STAGE: Final[dict[tuple[Stage | None, int, int | None], Stage]] = {
    (None, Stage.SECURITY, None): Stage.SECURITY,
    (None, Stage.SECURITY, Stage.OPERATIONAL): Stage.OPERATIONAL,
    (None, Stage.SECURITY, Stage.FULL_FEATURE): Stage.FULL_FEATURE,
    (None, Stage.OPERATIONAL, None): Stage.OPERATIONAL,
    (None, Stage.OPERATIONAL, Stage.FULL_FEATURE): Stage.FULL_FEATURE,
    (Stage.SECURITY, Stage.SECURITY, None): Stage.SECURITY,
    (Stage.SECURITY, Stage.SECURITY, Stage.OPERATIONAL): Stage.OPERATIONAL,
    (Stage.SECURITY, Stage.SECURITY, Stage.FULL_FEATURE): Stage.FULL_FEATURE,
    (Stage.OPERATIONAL, Stage.OPERATIONAL, None): Stage.OPERATIONAL,
    (Stage.OPERATIONAL, Stage.OPERATIONAL, Stage.FULL_FEATURE): Stage.FULL_FEATURE,
}


class LoginFlags(NamedTuple):
    """Byte 1 of a login PDU taken apart; ``nsg`` is None without T."""

    csg: int
    nsg: int | None
    more: bool


def login_flags(flags: int) -> LoginFlags:
    """Byte 1 taken apart; :class:`PduError` if it has both T and C."""
    if flags & LOGIN_TRANSIT and flags & LOGIN_CONTINUE:
        raise PduError("the peer set both T and C in a login PDU")
    nsg = flags & LOGIN_STAGE_MASK if flags & LOGIN_TRANSIT else None
    return LoginFlags(flags >> LOGIN_CSG_SHIFT & LOGIN_STAGE_MASK, nsg, bool(flags & LOGIN_CONTINUE))


def next_stage(stage: Stage | None, csg: int, nsg: int | None) -> Stage:
    """Where a PDU with ``csg`` and ``nsg`` leads; :class:`PduError` if the table has no such transition."""
    to = NEXT_STAGE.get((stage, csg, nsg))
    if to is None:
        where = "at the start" if stage is None else f"in stage {stage.value}"
        raise PduError(f"the peer sent a login PDU with CSG {csg} and NSG {nsg} {where}; the table has no such step")
    return to


class LoginText:
    """The text of one side's login: collects what comes, cuts up what goes.

    At most one of the two is under way, for requests and responses alternate.
    """

    def __init__(self) -> None:
        self._inbox = TextAssembler()
        self._outbox: list[bytes] = []
        self.final_flags = 0  # of the PDU that carries the last of the outbox

    @property
    def sending(self) -> bool:
        """Whether a part of our text has still to go."""
        return bool(self._outbox)

    @property
    def receiving(self) -> bool:
        """Whether a part of the peer's text has still to come."""
        return self._inbox.partial

    def take(self, pdu: Pdu, flags: LoginFlags) -> list[Pair] | None:
        """The pairs of the text that ``pdu`` completes; None while more is to come.

        Raises :class:`TextError` beyond the limits and for malformed text.
        """
        if len(pdu.data) > LOGIN_DATA_LENGTH:
            raise TextError(
                f"the peer sent {len(pdu.data)} bytes in a login PDU; at most {LOGIN_DATA_LENGTH} are allowed"
            )
        text = self._inbox.add(pdu.data, flags.more)
        return None if text is None else decode_text(text)

    def load(self, pairs: Iterable[Pair], final_flags: int) -> tuple[bytes, int]:
        """The data and the flags of the first PDU that says ``pairs``; ``final_flags`` go with the last."""
        self._outbox = list(split_text(encode_text(pairs), LOGIN_DATA_LENGTH))
        self.final_flags = final_flags
        return self.next_part()

    def next_part(self) -> tuple[bytes, int]:
        """The data and the flags of the next PDU of our text."""
        data = self._outbox.pop(0)
        if not self._outbox:
            return data, self.final_flags
        return data, (self.final_flags & LOGIN_STAGE_MASK << LOGIN_CSG_SHIFT) | LOGIN_CONTINUE
