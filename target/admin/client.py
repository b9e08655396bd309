"""Ask a running target, as a command of the command line does."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, Final

from iser.errors import ConnectionFailed, ConnectionLost, IserError, UsageError

__all__ = ["DEFAULT_SOCKET", "MAX_ANSWER", "TIMEOUT", "ask"]

#: Where the systemd unit in configs/ has it.
DEFAULT_SOCKET: Final = Path("/run/iser-target/admin.sock")
TIMEOUT: Final = 30.0  # seconds for a target to answer
MAX_ANSWER: Final = 64 << 20  # bytes


def ask(path: Path, command: str, **arguments: Any) -> Any:
    """The result of ``command`` at the target whose admin socket is ``path``.

    Raises ConnectionFailed when no target is running there, UsageError and IserError with the target's own words.
    """
    request = json.dumps({"command": command, "arguments": arguments}) + "\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        _connect(sock, path)
        try:
            sock.sendall(request.encode())
            line = _line(sock)
        except OSError as error:
            raise ConnectionLost(f"the target at {path} did not answer: {error.strerror or error}") from error
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return answer["result"]
        kind, message = UsageError if answer["usage"] else IserError, str(answer["error"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConnectionLost(f"what answers at {path} is no target of ours") from error
    raise kind(message)


def _connect(sock: socket.socket, path: Path) -> None:
    try:
        sock.connect(os.fspath(path))
    except PermissionError as error:
        raise ConnectionFailed(f"no permission for {path}; be root or the user that the target runs as") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ConnectionFailed(f"no target is running at {path}; start one with 'serve --admin {path}'") from error
    except OSError as error:
        raise ConnectionFailed(f"no target can be asked at {path}: {error.strerror or error}") from error


def _line(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.readline(MAX_ANSWER)
