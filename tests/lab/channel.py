"""The host's end of the two lines into a machine: the agent's JSON lines, and qemu's own monitor."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from tests.lab.errors import LabError

__all__ = ["AgentChannel", "CommandFailed", "Monitor", "Result"]

MONITOR_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Result:
    """How a command in the guest ended; ``exit`` is negative for a signal."""

    command: str
    exit: int
    out: str
    err: str

    def checked(self) -> Result:
        """Itself.  Raises CommandFailed for an exit code other than 0."""
        if self.exit:
            raise CommandFailed(self)
        return self


class CommandFailed(LabError):  # noqa: N818 - reads better at the end of a test's line
    """A command in the guest did not end with 0; ``result`` has all that it said."""

    def __init__(self, result: Result) -> None:
        said = (result.err.strip() or result.out.strip()).splitlines()
        command = " ".join(result.command.split())
        super().__init__(f"guest: {command[:120]!r} ended with {result.exit}: {said[-1] if said else 'no output'}")
        self.result = result


class AgentChannel:
    """Requests out, answers in, by number; a thread of its own reads."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[str, Future[Result]]] = {}
        self._ended = False
        self.ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._read, name="lab agent", daemon=True)
        self._thread.start()

    def start(self, argv: Sequence[str], stdin: bytes, seconds: float) -> tuple[int, Future[Result]]:
        """Have a command run; its number, and its result to come."""
        number = next(self._numbers)
        future: Future[Result] = Future()
        request = {"id": number, "argv": list(argv), "stdin": stdin.decode("latin-1"), "seconds": seconds}
        with self._lock:
            if self._ended:
                raise LabError("the machine has ended")
            self._waiting[number] = argv[-1], future
            self._line.sendall(json.dumps(request).encode() + b"\n")
        return number, future

    def kill(self, number: int) -> None:
        """Kill a command and all that it started."""
        with self._lock:
            if not self._ended:
                self._line.sendall(json.dumps({"id": number, "kill": True}).encode() + b"\n")

    def close(self) -> None:
        """Fail what waits, and end the thread."""
        with contextlib.suppress(OSError):  # the machine was faster
            self._line.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._line.close()

    def _read(self) -> None:
        # An error of the line is the same as its end.
        with self._line.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                self._take(json.loads(line))
        with self._lock:
            self._ended = True
        if not self.ready.done():
            self.ready.set_exception(LabError("the machine ended before its agent was there"))
        for command, future in self._waiting.values():
            future.set_exception(LabError(f"the machine ended during {command[:120]!r}"))

    def _take(self, answer: dict[str, Any]) -> None:
        if answer.get("ready"):
            self.ready.set_result(None)
            return
        command, future = self._waiting.pop(answer["id"])
        out, err = (answer[name].encode("latin-1").decode(errors="replace") for name in ("out", "err"))
        future.set_result(Result(command, answer["exit"], out, err))


class Monitor:
    """qemu's machine protocol."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._line.settimeout(MONITOR_SECONDS)
        self._lines = line.makefile("rb")
        self._next()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Raises LabError with what qemu says."""
        self._line.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = self._next()
            if "error" in answer:
                raise LabError(f"qemu refused {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def human(self, line: str) -> str:
        """A command of the human monitor, and its output."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def close(self) -> None:
        """Let go of the line."""
        self._lines.close()
        self._line.close()

    def _next(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise LabError(f"qemu's monitor does not answer: {error}") from error
        if not line:
            raise LabError("qemu's monitor closed its line")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer
