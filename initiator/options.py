"""How to connect: every option of a URL and of :func:`initiator.connect`, with its bounds."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from iser.errors import UsageError
from iser.login import is_iscsi_name
from iser.login.chap import parse_algorithms
from iser.rdma.choose import AUTO, check_provider
from iser.sg.planner import check_strategy
from iser.sg.strategies import Immediate

__all__ = ["MAX_QUEUE_DEPTH", "OPTION_NAMES", "ConnectOptions", "default_initiator_name", "parse_option", "parse_size"]

MAX_QUEUE_DEPTH: Final = 1024
MAX_TRANSFER: Final = 16 << 20  # bytes of one command: what one memory region is made for
MAX_POLL: Final = 1000  # microseconds


def default_initiator_name() -> str:
    """The name of this host as an initiator."""
    host = re.sub(r"[^a-z0-9.-]+", "-", platform.node().lower()).strip(".-") or "localhost"
    return f"iqn.2026-11.iser.initiator:{host}"[:223]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Times in seconds, lengths in bytes.  Raises UsageError, with the option's name, for a value out of bounds.

    ``strategy`` and ``no_bounce`` choose how lists are registered (:class:`iser.sg.Planner`), ``pool_size`` how many at
    once (0: as many as ``queue_depth`` can need; commands beyond it wait), ``immediate_data`` lets
    small writes travel with their command, ``max_transfer`` caps one command of ``read_into`` and ``write``;
    ``provider`` is ``verbs``, ``softiwarp`` or ``auto``: verbs where an RDMA device owns the address;
    ``crc`` and ``segment`` are softiwarp's, the embedded RNIC's.
    ``timeout`` is for each command, ``login_timeout`` for connecting.
    ``header_digest`` and ``data_digest`` ask for CRC32C over TCP.
    ``busy_poll_us`` is for how many microseconds the event loop looks out for the next answer before it sleeps, from
    then on: commands that go one at a time are done sooner, at the price of processor time.

    With ``user`` and a ``password``, or the file that holds it, a login proves who we are by CHAP; with ``target_user``
    and ``target_password`` the target has to do so, too.  ``chap`` is the algorithms to offer, best first, such as
    "sha256,md5".  Where none of these is set, the environment counts: see :mod:`initiator.credentials`.
    """

    strategy: str = "auto"
    no_bounce: bool = False
    remote_invalidate: bool = True
    queue_depth: int = 128
    timeout: float = 30.0
    login_timeout: float = 15.0
    immediate_data: bool = True
    max_transfer: int = 8 << 20
    crc: bool | Literal["auto"] = "auto"
    segment: int | Literal["auto", "mss"] = "auto"
    pool_size: int = 0
    initiator_name: str = ""
    provider: str = AUTO
    busy_poll_us: int = 0
    header_digest: bool = False
    data_digest: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    target_user: str = ""
    target_password: str = field(default="", repr=False)
    target_password_file: str = ""
    chap: str = ""

    def __post_init__(self) -> None:
        name = check_strategy(self.strategy, no_bounce=self.no_bounce)
        if name == Immediate.name and not self.immediate_data:
            raise UsageError("strategy 'immediate' needs immediate data; set immediate_data or use another strategy")
        _within("queue_depth", self.queue_depth, 1, MAX_QUEUE_DEPTH)
        _within("pool_size", self.pool_size, 0, 2 * MAX_QUEUE_DEPTH)
        _within("timeout", self.timeout, 0.001, 86400)
        _within("login_timeout", self.login_timeout, 0.001, 3600)
        _within("max_transfer", self.max_transfer, 512, MAX_TRANSFER)
        _within("busy_poll_us", self.busy_poll_us, 0, MAX_POLL)
        check_provider(self.provider)
        parse_algorithms(self.chap)
        if self.initiator_name and not is_iscsi_name(self.initiator_name):
            raise UsageError(f"initiator_name {self.initiator_name!r} is no iSCSI name; use one like iqn.2026-11.org:a")

    def with_changes(self, changes: Mapping[str, Any]) -> ConnectOptions:
        """The same with some options set.  Raises UsageError for an option that does not exist."""
        for name in changes:
            if name not in OPTION_NAMES:
                raise UsageError(f"option {name!r} does not exist; choose among {', '.join(OPTION_NAMES)}")
        return replace(self, **changes)


OPTION_NAMES: Final = tuple(each.name for each in fields(ConnectOptions))


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} {value} is out of bounds; use {low} to {high}")


def parse_option(name: str, text: str) -> Any:
    """The value of an option from its text in a URL.  Raises UsageError."""
    if name not in OPTION_NAMES:
        raise UsageError(f"option {name!r} does not exist; choose among {', '.join(OPTION_NAMES)}")
    try:
        return _PARSERS.get(name, str)(text)
    except UsageError as error:
        raise UsageError(f"option {name}: {error}") from None


def _parse_bool(text: str) -> bool:
    value = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
    if text.lower() not in value:
        raise UsageError(f"{text!r} is neither yes nor no")
    return value[text.lower()]


def _parse_crc(text: str) -> bool | str:
    return text if text == "auto" else _parse_bool(text)


def _parse_segment(text: str) -> int | str:
    return text if text in {"auto", "mss"} else parse_size(text)


def parse_size(text: str) -> int:
    """Bytes, written as 65536, 64K or 8M.  Raises UsageError."""
    match = re.fullmatch(r"(\d{1,12})([KM]?)", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is no number of bytes; write it like 65536, 64K or 8M")
    return int(match[1]) << {"": 0, "K": 10, "M": 20}[match[2].upper()]


def _parse_seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII):
        raise UsageError(f"{text!r} is no number of seconds")
    return float(text)


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "no_bounce": _parse_bool,
    "remote_invalidate": _parse_bool,
    "immediate_data": _parse_bool,
    "queue_depth": parse_size,
    "pool_size": parse_size,
    "max_transfer": parse_size,
    "busy_poll_us": parse_size,
    "timeout": _parse_seconds,
    "login_timeout": _parse_seconds,
    "header_digest": _parse_bool,
    "data_digest": _parse_bool,
    "crc": _parse_crc,
    "segment": _parse_segment,
}
