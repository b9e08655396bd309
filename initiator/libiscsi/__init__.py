"""LUNs through the system's libiscsi, with the API of our own initiator::

    async with await libiscsi.connect("iscsi://host/iqn.2026-11.org:disk/0") as lun:
        await lun.write(0, [header, body])

``iscsi://`` works anywhere, ``iser://`` where there is RDMA.  It needs libiscsi 7 or newer and the extra ``libiscsi``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from initiator.establish import Link
from initiator.libiscsi.library import load
from initiator.libiscsi.session import LibiscsiSession
from initiator.lun import Lun
from initiator.url import Portal, Url
from iser.errors import IserError
from iser.sg import RegistrationCounters

__all__ = ["LibiscsiLink", "LibiscsiSession", "available", "connect"]


@dataclass(slots=True)
class _NoRegistration:
    """What libiscsi registers is its own affair."""

    counters: RegistrationCounters = field(default_factory=RegistrationCounters)


@dataclass(frozen=True, slots=True)
class LibiscsiLink:
    """As :class:`initiator.establish.Link`, as far as a Lun looks at it."""

    session: LibiscsiSession
    portal: Portal
    datamover: _NoRegistration = field(default_factory=_NoRegistration)
    planner: None = None


async def connect(url: str | Url, **options: Any) -> Lun:
    """Log in to the target of ``url`` through libiscsi; options and errors as for :func:`initiator.connect`.

    Raises ResourceError, with the fix, where libiscsi or cffi is missing.  ``strategy`` and what else is about
    registration does nothing here; lists go to libiscsi as they are.
    """
    place = Url.parse(url) if isinstance(url, str) else url
    settings = place.connect_options.with_changes(options)
    session = await LibiscsiSession.connect(place.portal, place.target, settings)
    try:
        return await Lun.open(cast(Link, LibiscsiLink(session, session.portal)), place.lun, settings)
    except BaseException:
        await session.close()
        raise


def available() -> str:
    """Why the wrapper cannot be used here, in one sentence; "" if it can."""
    try:
        load()
    except IserError as error:
        return str(error)
    return ""
