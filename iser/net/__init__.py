"""Plain TCP for everything above it: addresses and sockets, listeners, and a socket driven by a sans-IO machine."""

from __future__ import annotations

from iser.net.busypoll import BusyPoll, busy_poll, spare_processors
from iser.net.listener import TcpListener
from iser.net.sockets import Address, addresses_of, bind, dial, display, resolve, why_not
from iser.net.stream import Machine, Stream, StreamTimes

__all__ = [
    "Address",
    "BusyPoll",
    "Machine",
    "Stream",
    "StreamTimes",
    "TcpListener",
    "addresses_of",
    "bind",
    "busy_poll",
    "dial",
    "display",
    "resolve",
    "spare_processors",
    "why_not",
]
