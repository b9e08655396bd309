"""The iSCSI initiator, over iSER or plain TCP::

    async with await initiator.connect("iser://host:3260/iqn.2026-11.org:disk/0") as lun:
        await lun.write(0, [header, body, trailer])
        await lun.read_into(0, [first, second])

Every error is an :class:`IserError`; the ones that a user meets are re-exported here.
"""

from __future__ import annotations

from typing import Any

from initiator.establish import open_session, send_targets
from initiator.lun import Lun
from initiator.options import ConnectOptions
from initiator.task import ScsiResult
from initiator.url import Portal, Url
from iser.errors import (
    CommandAborted,
    CommandError,
    CommandTimeout,
    ConnectionFailed,
    ConnectionLost,
    ConnectionRejected,
    IserError,
    LoginError,
    NegotiationError,
    ProtocolError,
    ResourceError,
    ScsiError,
    UrlError,
    UsageError,
)
from iser.login import TargetRecord
from iser.scsi.capacity import Capacity

__all__ = [
    "Capacity",
    "CommandAborted",
    "CommandError",
    "CommandTimeout",
    "ConnectOptions",
    "ConnectionFailed",
    "ConnectionLost",
    "ConnectionRejected",
    "IserError",
    "LoginError",
    "Lun",
    "NegotiationError",
    "Portal",
    "ProtocolError",
    "ResourceError",
    "ScsiError",
    "ScsiResult",
    "TargetRecord",
    "Url",
    "UrlError",
    "UsageError",
    "connect",
    "discover",
]


async def connect(url: str | Url, **options: Any) -> Lun:
    """Log in to the target of ``url`` and find out about its LUN.

    ``options`` are those of :class:`ConnectOptions`, and count more than the URL's.  Raises UrlError, UsageError,
    ConnectionFailed, LoginError, NegotiationError, ProtocolError, ConnectionLost, CommandError.
    """
    place = Url.parse(url) if isinstance(url, str) else url
    settings = place.connect_options.with_changes(options)
    link = await open_session(place.portal, place.target, settings)
    try:
        return await Lun.open(link, place.lun, settings)
    except BaseException:
        await link.session.close()
        raise


async def discover(portal: str | Portal, **options: Any) -> list[TargetRecord]:
    """What targets a portal has, ``host[:port]``.  ``options`` and errors as for :func:`connect`, and TextError."""
    place = Portal.parse(portal) if isinstance(portal, str) else portal
    settings = ConnectOptions().with_changes(options)
    link = await open_session(place, "", settings)
    try:
        return await send_targets(link.session, settings.login_timeout)
    finally:
        await link.session.close()
