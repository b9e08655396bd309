"""Messages between the parent and a worker: bytes with their length before them, and descriptors beside them."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from iser.errors import ConnectionLost, PduError

__all__ = ["MAX_DESCRIPTORS", "MAX_MESSAGE", "Channel"]

MAX_MESSAGE: Final = 64 << 20  # bytes of one message
MAX_DESCRIPTORS: Final = 253  # what the kernel takes with one message: SCM_MAX_FD
_HEADER: Final = struct.Struct("!IH")  # bytes and descriptors that follow
_CHUNK: Final = 1 << 18
_PAUSE: Final = 0.005  # seconds before another try where the socket is full


class Channel:
    """One end of a connected Unix stream socket, which is the channel's own from then on.

    ``on_message`` gets each message with its descriptors, which are the user's to close; ``on_end`` comes once, when
    the other end has closed or sent what is no message.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[bytes, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(sock.fileno(), self._on_readable)

    async def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send ``message``, with copies of ``descriptors``.  Raises ConnectionLost."""
        assert len(message) <= MAX_MESSAGE
        assert len(descriptors) <= MAX_DESCRIPTORS
        async with self._sending:
            try:
                if not self._open:
                    raise ConnectionLost("the channel is closed")
                await self._send_header(_HEADER.pack(len(message), len(descriptors)), descriptors)
                await self._loop.sock_sendall(self._sock, message)
            except OSError as error:
                raise ConnectionLost(f"the process at the other end has ended: {error}") from error

    def close(self) -> None:
        """Idempotent."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            for descriptor in self._descriptors:
                os.close(descriptor)

    async def _send_header(self, header: bytes, descriptors: Sequence[int]) -> None:
        while True:
            try:
                socket.send_fds(self._sock, [header], descriptors)
            except BlockingIOError:
                await asyncio.sleep(_PAUSE)
            else:
                return

    def _on_readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, _CHUNK, MAX_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # as all that Python makes; recv_fds takes no flags in 3.11
        self._buffer += data
        self._descriptors += descriptors
        try:
            if data:
                self._hand_up()
                return
        except PduError:
            pass
        self.close()
        self._on_end()

    def _hand_up(self) -> None:
        while self._open and len(self._buffer) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + length
            if length > MAX_MESSAGE or count > len(self._descriptors):
                raise PduError(f"a message of {length} bytes with {count} descriptors")
            if len(self._buffer) < end:
                break
            message = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            own, self._descriptors = self._descriptors[:count], self._descriptors[count:]
            self._on_message(message, own)
        if len(self._descriptors) > MAX_DESCRIPTORS:
            raise PduError(f"{len(self._descriptors)} descriptors that belong to no message")
