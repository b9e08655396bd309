"""The admin socket: JSON lines over a Unix socket that only the target's own user may open.

A request is ``{"command": NAME, "arguments": {...}}``, its answer ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": TEXT, "usage": BOOL}``, where ``usage`` says that the request was at fault.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any, Final

from iser.errors import ConnectionFailed, IserError, UsageError
from target.admin.commands import Commands

__all__ = ["IDLE_TIMEOUT", "MAX_CLIENTS", "MAX_LINE", "AdminListener"]

MAX_LINE: Final = 4 << 20  # bytes of a request, which may hold a whole configuration
MAX_CLIENTS: Final = 16  # at once; one more is closed
IDLE_TIMEOUT: Final = 60.0  # seconds without a request

log = logging.getLogger("iser.admin")


class AdminListener:
    """Made by :meth:`open`."""

    def __init__(self, path: Path, administration: Commands) -> None:
        self.path = path
        self._administration = administration
        self._clients: set[asyncio.Task[None]] = set()
        self._inode = 0
        self._server: asyncio.Server

    @classmethod
    async def open(cls, path: Path, administration: Commands) -> AdminListener:
        """Listen at ``path``, in place of what a target that died left there.  Raises UsageError, ConnectionFailed."""
        self = cls(path, administration)
        sock, self._inode = _bind(path)
        self._server = await asyncio.start_unix_server(self._client, sock=sock, limit=MAX_LINE)
        return self

    async def close(self) -> None:
        """Stop, and remove the socket unless it is another's by now.  Idempotent."""
        self._server.close()
        for task in list(self._clients):
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except OSError as error:
            log.debug("%s: not removed: %s", self.path, error)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        try:
            if len(self._clients) >= MAX_CLIENTS:
                return
            self._clients.add(task)
            while line := await asyncio.wait_for(reader.readline(), IDLE_TIMEOUT):
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), IDLE_TIMEOUT)
        except (OSError, ValueError) as error:  # ValueError is a line that is too long, TimeoutError an OSError
            log.info("an admin client came to nothing: %s", error or type(error).__name__)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or not isinstance(request.get("command"), str):
                raise UsageError('a request is {"command": NAME, "arguments": {...}}')
            arguments = request.get("arguments", {})
            if not isinstance(arguments, dict):
                raise UsageError("arguments have to be an object")
            return {"ok": True, "result": await self._administration.run(request["command"], arguments)}
        except (UsageError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            return {"ok": False, "error": str(error), "usage": True}
        except IserError as error:
            return {"ok": False, "error": str(error), "usage": False}
        except Exception as error:  # a fault of ours must not end a target that serves
            log.exception("internal error in an admin command")
            return {"ok": False, "error": f"internal error: {error!r}", "usage": False}


def _bind(path: Path) -> tuple[socket.socket, int]:
    """A socket bound to ``path``, and the inode there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before the bind, so that there is no moment in which others may connect.
        os.fchmod(sock.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        try:
            sock.bind(os.fspath(path))
        except OSError:
            _remove_stale(path)
            sock.bind(os.fspath(path))
        sock.setblocking(False)
        inode = path.stat().st_ino
    except OSError as error:
        sock.close()
        raise ConnectionFailed(f"cannot open the admin socket {path}: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
    return sock, inode


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more; whatever else is there stays."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path} is there and is no socket; choose another path for the admin socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise UsageError(f"a target is running at {path} already; choose another path for the admin socket")
