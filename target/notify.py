"""Tell the service manager how we are: the protocol of sd_notify(3), which is one datagram."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

__all__ = ["notify"]


def notify(state: str) -> None:
    """Send ``state``, such as ``READY=1``; does nothing where no manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)  # a manager that does not read must not stop us
        sock.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
