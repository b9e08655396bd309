"""Which provider reaches an address: ``verbs`` where an RDMA device owns it, else the embedded RNIC."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
from functools import cache
from typing import TYPE_CHECKING, Final

from iser.errors import IserError, UsageError
from iser.rdma.api import Provider
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions

if TYPE_CHECKING:
    from iser.rdma.verbs import Verbs

__all__ = ["AUTO", "PROVIDERS", "check_provider", "choose", "device_names", "make_provider", "owner_of", "shared_verbs"]

AUTO: Final = "auto"
VERBS: Final = "verbs"
SOFTIWARP: Final = "softiwarp"
PROVIDERS: Final = (AUTO, VERBS, SOFTIWARP)
SYSFS: Final = "/sys/class/infiniband"

log = logging.getLogger("iser.rdma")


def check_provider(name: str) -> str:
    """``name`` if there is such a provider.  Raises UsageError."""
    if name not in PROVIDERS:
        raise UsageError(f"provider {name!r} does not exist; choose one of {', '.join(PROVIDERS)}")
    return name


async def make_provider(name: str, host: str, softiwarp: SoftIwarpOptions, *, passive: bool = False) -> Provider:
    """The provider ``name``, or with ``auto`` the one for ``host``: a peer to connect to, or our own if ``passive``.

    Raises ResourceError, with the fix, when ``verbs`` is asked for and cannot be had.
    """
    if await choose(name, host, passive=passive) == VERBS:
        return shared_verbs()
    return SoftIwarp(softiwarp)


@cache
def shared_verbs() -> Verbs:
    """The verbs provider of this process, as an open device is worth keeping.  Raises ResourceError."""
    from iser.rdma.verbs import Verbs  # noqa: PLC0415 - only who has a device pays for loading it

    return Verbs()


async def choose(name: str, host: str, *, passive: bool = False) -> str:
    """``verbs`` or ``softiwarp``.  Raises UsageError for a provider that does not exist."""
    if check_provider(name) != AUTO:
        return name
    if not device_names():
        return SOFTIWARP
    owner = await asyncio.get_running_loop().run_in_executor(None, _owner_towards, host, passive)
    if not owner:
        return SOFTIWARP
    try:
        from iser.rdma.verbs.library import load_pyverbs  # noqa: PLC0415 - as above

        load_pyverbs()
    except IserError as error:
        log.warning("RDMA device %s owns the address of %s but cannot be used: %s", owner, host, error)
        return SOFTIWARP
    return VERBS


def device_names() -> list[str]:
    """The RDMA devices of this machine."""
    try:
        return sorted(os.listdir(SYSFS))
    except OSError:
        return []


def _owner_towards(host: str, passive: bool) -> str:
    """The device of the local address that ``host`` names or is reached from; "" for none.

    A wildcard address is every device's; loopback is nobody's, though the connection manager would lend it to any.
    """
    try:
        local = host if passive else _source_address(host)
        found = socket.getaddrinfo(local or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return ""  # whoever connects says what is wrong with the name
    for family, _, _, _, address in found:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
        if ip.is_unspecified:
            return device_names()[0]
        owner = "" if ip.is_loopback else owner_of(family, address)
        if owner:
            return owner
    return ""


def _source_address(host: str) -> str:
    """The address that packets to ``host`` would come from; nothing is sent.  Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def owner_of(family: int, address: tuple[object, ...]) -> str:
    """The RDMA device that has a local address, as the connection manager sees it; "" for none."""
    from iser.rdma.verbs.rdmacm import load_rdmacm, pack_address  # noqa: PLC0415 - as above

    try:
        library = load_rdmacm()
        channel, _ = library.create_channel()
    except (IserError, OSError) as error:
        log.warning("there are RDMA devices but their connection manager cannot be used: %s", error)
        return ""
    try:
        identifier = library.create_id(channel)
        try:
            library.bind(identifier, pack_address(family, (address[0], 0, *address[2:])))
            return library.device_name(identifier)
        finally:
            library.destroy_id(identifier)
    except OSError:
        return ""  # no device has it
    finally:
        library.destroy_channel(channel)
