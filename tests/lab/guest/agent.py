"""The lab's hand in the guest: runs commands that come as JSON lines over a virtio-serial port.

A request is ``{"id": number, "argv": [...], "stdin": text, "seconds": number}``, or ``{"id": number, "kill": true}``
for one that runs.  Each command gets exactly one answer, ``{"id", "exit", "out", "err"}``; ``exit`` is negative for a
signal, as in :mod:`subprocess`.  Commands run side by side, each in a process group of its own.  Runs on the
distribution's Python, with nothing but its standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any, BinaryIO, NamedTuple

__all__ = ["LIMIT", "Agent", "main"]

LIMIT = 4 << 20  # bytes of output that one answer carries


class Files(NamedTuple):
    """Where a command's output goes."""

    out: Any
    err: Any


class Agent:
    """Reads requests from ``port`` until its other side has gone."""

    def __init__(self, port: BinaryIO) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def serve(self) -> None:
        """Say that we are here, then do as we are told."""
        self._answer({"id": 0, "ready": True})
        while line := self._port.readline():
            request = json.loads(line)
            if request.get("kill"):
                self._kill(request["id"])
            else:
                self._start(request)

    def _answer(self, answer: dict[str, Any]) -> None:
        data = memoryview(json.dumps(answer).encode() + b"\n")
        with self._lock:
            while data:
                data = data[os.write(self._port.fileno(), data) :]

    def _start(self, request: dict[str, Any]) -> None:
        # Output goes to files: a daemon that keeps a pipe open would keep us waiting.
        files = Files(tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115 - closed by _finish
        with tempfile.TemporaryFile() as given:
            given.write(request["stdin"].encode("latin-1"))
            given.seek(0)
            try:
                process = subprocess.Popen(
                    request["argv"], stdin=given, stdout=files.out, stderr=files.err, start_new_session=True
                )
            except OSError as error:
                for file in files:
                    file.close()
                self._answer({"id": request["id"], "exit": 127, "out": "", "err": str(error)})
                return
        self._running[request["id"]] = process
        threading.Thread(target=self._finish, args=(request, process, files), daemon=True).start()

    def _finish(self, request: dict[str, Any], process: subprocess.Popen[bytes], files: Files) -> None:
        code, note = self._wait(request, process)
        del self._running[request["id"]]
        with files.out, files.err:
            answer = {"id": request["id"], "exit": code, "out": _text(files.out), "err": _text(files.err) + note}
        self._answer(answer)

    def _wait(self, request: dict[str, Any], process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """The exit code, and what to add to its messages."""
        try:
            return process.wait(request["seconds"]), ""
        except subprocess.TimeoutExpired:
            note = f"killed after {request['seconds']} seconds\n"
            self._kill(request["id"])
        try:
            return process.wait(5), note
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL, note + "and it did not die: it hangs in the kernel\n"

    def _kill(self, number: int) -> None:
        process = self._running.get(number)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(LIMIT).decode("latin-1")


def main() -> None:
    """Serve the port that the command line names."""
    with open(sys.argv[1], "r+b", buffering=0) as raw:
        Agent(raw).serve()


if __name__ == "__main__":
    main()
