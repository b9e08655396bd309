"""Portals and URLs: ``iser://[user[%password]@]host[:port]/iqn[/lun][?option=value&...]``, as libiscsi writes them.

``iscsi://`` in place of ``iser://`` is plain iSCSI over TCP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from initiator.options import ConnectOptions, parse_option
from iser.errors import UrlError, UsageError
from iser.login import Transport, is_iscsi_name
from iser.scsi.lun import MAX_LUN

__all__ = ["DEFAULT_PORT", "SCHEMES", "Portal", "Url", "is_url"]

DEFAULT_PORT: Final = 3260
SCHEMES: Final[dict[str, Transport]] = {"iser://": "iser", "iscsi://": "tcp"}

_HOST: Final = re.compile(r"[A-Za-z0-9._~-]+")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?")


class Portal(NamedTuple):
    """Where a target listens; ``host`` is a name or an address, IPv6 without brackets."""

    host: str
    port: int = DEFAULT_PORT
    transport: Transport = "iser"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Portal:
        """From ``host[:port]``, with ``iser://`` or ``iscsi://`` before it, or neither for iSER.  Raises UrlError."""
        scheme = _scheme(text) or "iser://"
        rest = text.removeprefix(scheme).removesuffix("/")
        if "://" in rest:
            raise UrlError(f"{text!r}: the scheme must be {' or '.join(SCHEMES)} or left out")
        host, port = _split_host(text, rest)
        return cls(host, port, SCHEMES[scheme])


@dataclass(frozen=True, slots=True)
class Url:
    """A logical unit, and how to reach it.  ``options`` holds the values that the URL sets."""

    portal: Portal
    target: str
    lun: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Url:
        """Take a URL apart.  Raises UrlError, in one sentence that names the part and the fix."""
        scheme = _scheme(text)
        if scheme is None:
            raise UrlError(
                f"{_safe(text)!r}: a URL begins with iser://, or iscsi:// for plain TCP,"
                " as in iser://host:3260/iqn.2026-11.org:disk/0"
            )
        rest, _, query = text.removeprefix(scheme).partition("?")
        authority, slash, path = rest.partition("/")
        if not slash or not path:
            raise UrlError(f"{_safe(text)!r}: the target name is missing; write it after the portal, as in /iqn.../0")
        login, at, host_port = authority.rpartition("@")
        user, _, password = login.partition("%")
        if at and not user:
            raise UrlError(f"{_safe(text)!r}: the user before '@' is empty; write user%password@ or leave '@' out")
        host, port = _split_host(_safe(text), host_port)
        target, lun = _split_path(_safe(text), path)
        portal = Portal(host, port, SCHEMES[scheme])
        return cls(portal, target, lun, unquote(user), unquote(password), _options(_safe(text), query))

    @property
    def connect_options(self) -> ConnectOptions:
        """The options, with defaults for those that the URL does not set; the user and the password among them."""
        login = {"user": self.user, "password": self.password} if self.user else {}
        return ConnectOptions().with_changes(login | dict(self.options))

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        scheme = next(scheme for scheme, transport in SCHEMES.items() if transport == self.portal.transport)
        return f"{scheme}{user}{self.portal}/{self.target}/{self.lun}"


def is_url(text: str) -> bool:
    """Whether ``text`` is meant for a URL, and not for the name of a file."""
    return _scheme(text) is not None


def _scheme(text: str) -> str | None:
    return next((scheme for scheme in SCHEMES if text.startswith(scheme)), None)


def _safe(text: str) -> str:
    """``text`` without the passwords, which belong in no message."""
    hidden = re.sub(r"%[^@/]*@", "%...@", text, count=1)
    return re.sub(r"(password=)[^&]*", r"\1...", hidden)


def _split_host(text: str, authority: str) -> tuple[str, int]:
    if authority.startswith("["):
        host, bracket, tail = authority[1:].partition("]")
        if not bracket or not _IPV6.fullmatch(host) or ":" not in host:
            raise UrlError(f"{text!r}: the IPv6 address in brackets is malformed; write it like [::1]:3260")
        colon, port = tail[:1], tail[1:]
        if colon not in ("", ":"):
            raise UrlError(f"{text!r}: after ']' comes ':' and the port, not {tail!r}")
    else:
        host, colon, port = authority.partition(":")
        if ":" in port:
            raise UrlError(f"{text!r}: an IPv6 address stands in brackets, like [::1]:3260")
        if not _HOST.fullmatch(host):
            raise UrlError(f"{text!r}: the host {host!r} is no name or address; write it like storage.example:3260")
    if not colon:
        return host, DEFAULT_PORT
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise UrlError(f"{text!r}: the port {port!r} is not a number from 1 to 65535")
    return host, int(port)


def _split_path(text: str, path: str) -> tuple[str, int]:
    target, slash, number = path.removesuffix("/").partition("/")
    target = unquote(target)
    if not is_iscsi_name(target):
        raise UrlError(f"{text!r}: the target {target!r} is no iSCSI name; use one like iqn.2026-11.org:disk")
    if not slash:
        return target, 0
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and int(number) <= MAX_LUN):
        raise UrlError(f"{text!r}: the LUN {number!r} is not a number from 0 to {MAX_LUN}")
    return target, int(number)


def _options(text: str, query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        name, equals, value = item.partition("=")
        if name in options:
            raise UrlError(f"{text!r}: the option {name!r} stands twice; keep one")
        try:
            # An option without a value is a switch, as in ?no_bounce.
            options[name] = parse_option(name, unquote(value) if equals else "yes")
        except UsageError as error:
            raise UrlError(f"{text!r}: {error}") from None
    try:
        ConnectOptions().with_changes(options)
    except UsageError as error:
        raise UrlError(f"{text!r}: {error}") from None
    return options
