"""Outcome of a login, and addresses of targets as text (RFC 7143 section 13.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from iser.errors import TextError
from iser.login.params import NegotiatedParameters

__all__ = ["DEFAULT_PORT", "DISCOVERY", "MAX_NAME_LENGTH", "NORMAL", "LoginResult", "TargetAddress", "is_iscsi_name"]

DEFAULT_PORT: Final = 3260
NORMAL: Final = "Normal"
DISCOVERY: Final = "Discovery"
MAX_NAME_LENGTH: Final = 223  # bytes, RFC 7143 section 4.2.7.1
_MAX_TAG: Final = 65535


def is_iscsi_name(name: str) -> bool:
    """Whether ``name`` looks like an iSCSI name: ``iqn.``, ``eui.`` or ``naa.``, no blanks, 223 bytes at most."""
    return (
        name[:4] in ("iqn.", "eui.", "naa.")
        and 4 < len(name.encode()) <= MAX_NAME_LENGTH
        and name.isprintable()
        and not any(map(str.isspace, name))
    )


class TargetAddress(NamedTuple):
    """A portal: ``host`` is a name or an address, IPv6 without brackets; ``tpgt`` its portal group tag if known."""

    host: str
    port: int = DEFAULT_PORT
    tpgt: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        tag = "" if self.tpgt is None else f",{self.tpgt}"
        return f"{host}:{self.port}{tag}"

    @classmethod
    def parse(cls, text: str) -> TargetAddress:
        """From ``host[:port][,tag]``; :class:`TextError` otherwise."""
        address, comma, tag = text.partition(",")
        if address.startswith("["):
            host, bracket, port = address[1:].partition("]")
            good = bool(bracket) and port[:1] in ("", ":") and port != ":"
            port = port[1:]
        else:
            host, colon, port = address.partition(":")
            good = bool(port) or not colon
        number = _number(port) if port else DEFAULT_PORT
        tpgt = _number(tag) if comma else None
        if not good or not host or number in (None, 0) or (comma and tpgt is None):
            raise TextError(f"the peer sent {text[:MAX_NAME_LENGTH]!r} for an address; expected host[:port][,tag]")
        return cls(host, number or DEFAULT_PORT, tpgt)


def _number(text: str) -> int | None:
    good = 0 < len(text) <= 5 and text.isascii() and text.isdigit() and int(text) <= _MAX_TAG
    return int(text) if good else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginResult:
    """What the session layer needs to go on from a login.

    ``cmd_sn`` is the number of the first command: login requests are immediate and take none.  ``stat_sn`` is the
    StatSN of the target's next response; at the initiator that is its ExpStatSN.  ``exp_stat_sn`` is the last ExpStatSN
    that the initiator sent or, at the initiator, the one to send next.  ``max_cmd_sn`` is the last one that the target
    told.  At the target, ``isid`` with the initiator's name and the portal group tag tells whether this login replaces
    a session of that nexus (``new_session``: TSIH was 0 in the request), and ``tsih`` is the one granted.
    """

    params: NegotiatedParameters
    isid: bytes
    tsih: int
    cid: int
    cmd_sn: int
    stat_sn: int
    exp_stat_sn: int
    max_cmd_sn: int
    new_session: bool

    @property
    def initiator_name(self) -> str:
        """The initiator's iSCSI name."""
        return self.params.initiator_name

    @property
    def target_name(self) -> str:
        """The target's iSCSI name; "" in a discovery session that named none."""
        return self.params.target_name

    @property
    def session_type(self) -> str:
        """Either of "Normal" and "Discovery"."""
        return self.params.session_type

    @property
    def discovery(self) -> bool:
        """Whether the session is for discovery only."""
        return self.params.session_type == DISCOVERY
