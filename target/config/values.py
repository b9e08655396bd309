"""Values as people write them: sizes, portal addresses, iSCSI names.  Each parser raises UsageError with the fix."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from iser.errors import UsageError
from iser.login import Transport

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "DEFAULT_FIRST_BURST",
    "DEFAULT_MAX_BURST",
    "DEFAULT_PORT",
    "MAX_NAME",
    "MAX_SIZE",
    "Listen",
    "check_iscsi_name",
    "parse_address",
    "parse_listen",
    "parse_size",
]

#: The port registered for iSCSI, which iSER shares.
DEFAULT_PORT: Final = 3260
DEFAULT_BLOCK_SIZE: Final = 512
#: Defaults of FirstBurstLength and MaxBurstLength (RFC 7143 section 13.13, 13.14).
DEFAULT_FIRST_BURST: Final = 65536
DEFAULT_MAX_BURST: Final = 262144
#: The longest iSCSI name in bytes (RFC 7143 section 4.2.7.1).
MAX_NAME: Final = 223
#: The largest size that is taken for one.
MAX_SIZE: Final = 1 << 60

_SIZE = re.compile(r"(\d{1,19})\s*([KMGTP]?)(i?B)?", re.IGNORECASE)
_SCHEMES: Final[dict[Transport, str]] = {"iser": "iser", "tcp": "iscsi"}
_TRANSPORTS: Final = {scheme: transport for transport, scheme in _SCHEMES.items()}
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_LISTEN = re.compile(r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<host>\[[^\]]*\]|[^:/\[\]]*)(?::(?P<port>[^:/]*))?/?")
_IQN = re.compile(r"iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[^\s\x00-\x20]*)?")
_EUI_NAA = re.compile(r"eui\.[0-9A-Fa-f]{16}|naa\.[0-9A-Fa-f]{16}(?:[0-9A-Fa-f]{16})?")


class Listen(NamedTuple):
    """Where a portal listens; ``host`` without brackets, port 0 for any free one."""

    host: str
    port: int
    transport: Transport = "iser"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_SCHEMES[self.transport]}://{host}:{self.port}"


def parse_size(value: object) -> int:
    """Bytes in ``value``: a whole number, or a text like ``256M`` or ``1 GiB``.  Units are powers of 1024."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = int(match[1]) << _UNITS[match[2].upper()]
    else:
        raise UsageError(f"{value!r} is not a size; write a number of bytes, or one with K, M, G or T such as '256M'")
    if not 0 <= size <= MAX_SIZE:
        raise UsageError(f"a size of {value!r} is out of range; use 0 to {MAX_SIZE} bytes")
    return size


def parse_listen(value: object) -> Listen:
    """The address in ``iser://host[:port]``, or ``iscsi://`` for plain TCP; a host in brackets is IPv6."""
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise UsageError(f"{value!r} is not a portal address; write 'iser://HOST:PORT', an IPv6 host in [brackets]")
    if match["scheme"] not in _TRANSPORTS:
        raise UsageError(f"{value!r} has to start with 'iser://', or 'iscsi://' for plain iSCSI over TCP")
    host = match["host"].strip("[]")
    if not host:
        raise UsageError(f"{value!r} names no host; write 0.0.0.0 or [::] for every address of this machine")
    return Listen(host, _port(match["port"], value), _TRANSPORTS[match["scheme"]])


def parse_address(value: object) -> tuple[str, int]:
    """The host and port in ``host:port``; a host in brackets is IPv6, port 0 is any free one."""
    match = _LISTEN.fullmatch(value) if isinstance(value, str) and not value.endswith("/") else None
    if match is None or match["scheme"] or not match["host"] or match["port"] is None:
        raise UsageError(f"{value!r} is no address; write 'HOST:PORT' such as '127.0.0.1:9260', IPv6 in [brackets]")
    return match["host"].strip("[]"), _port(match["port"], value)


def _port(text: str | None, value: object) -> int:
    if text is None:
        return DEFAULT_PORT
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > 0xFFFF:
        raise UsageError(f"port {text!r} in {value!r} is out of range; use 1 to 65535, or 0 for any free one")
    return int(text)


def check_iscsi_name(value: object) -> str:
    """``value`` if it is an iSCSI name in normal form (RFC 7143 section 4.2.7)."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"{value!r} is not an iSCSI name; write one such as 'iqn.2026-11.demo:disk'")
    if len(value.encode()) > MAX_NAME:
        raise UsageError(f"the iSCSI name is {len(value.encode())} bytes long; at most {MAX_NAME} are allowed")
    if not value.startswith(("eui.", "naa.")) and value != value.lower():
        raise UsageError(f"the iSCSI name {value!r} has capital letters; write {value.lower()!r}")
    if not _IQN.fullmatch(value) and not _EUI_NAA.fullmatch(value):
        raise UsageError(
            f"{value!r} is not an iSCSI name; write 'iqn.YEAR-MONTH.DOMAIN:TEXT' such as 'iqn.2026-11.demo:disk', "
            "or 'eui.' or 'naa.' with 16 hexadecimal digits"
        )
    return value
