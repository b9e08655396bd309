"""A listening TCP socket that hands each connection to a callback."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from iser.errors import ConnectionFailed
from iser.net.sockets import Address, bind, display, resolve

__all__ = ["ACCEPT_BATCH", "ACCEPT_PAUSE", "TcpListener"]

ACCEPT_BATCH: Final = 16  # connections accepted in one turn of the loop; the others wait in the backlog
ACCEPT_PAUSE: Final = 1.0  # seconds without accepting when the process is out of descriptors

log = logging.getLogger("iser.net")


class TcpListener:
    """Made by :meth:`open`.  ``address`` is as bound."""

    def __init__(self, sock: socket.socket, on_connection: Callable[[socket.socket], None]) -> None:
        self.address: Address = sock.getsockname()[:2]
        self._sock = sock
        self._on_connection = on_connection
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._listening = False
        self._listen()

    @classmethod
    async def open(
        cls, host: str, port: int, on_connection: Callable[[socket.socket], None], *, buffer_size: int = 0
    ) -> TcpListener:
        """Listen.  ``on_connection`` gets each connection's socket, non-blocking, which is its own from then on.

        Raises ConnectionFailed.
        """
        try:
            sock = bind(*(await resolve(host or None, port, passive=True))[0], buffer_size)
        except OSError as error:
            raise ConnectionFailed(f"cannot listen on {display((host, port))}: {error.strerror or error}") from error
        return cls(sock, on_connection)

    def _listen(self) -> None:
        if not self._listening and not self._closed:
            self._listening = True
            self._loop.add_reader(self._sock.fileno(), self._on_acceptable)

    def _pause(self) -> None:
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._sock.fileno())

    def _on_acceptable(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("cannot accept on %s: %s; trying again", display(self.address), error)
                self._pause()
                self._loop.call_later(ACCEPT_PAUSE, self._listen)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._on_connection(sock)

    async def close(self) -> None:
        """Stop listening; connections stay.  Idempotent."""
        if not self._closed:
            self._pause()
            self._closed = True
            self._sock.close()
