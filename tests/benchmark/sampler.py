"""Runs a program and samples which layer has the processor: ``python -P sampler.py OUTPUT ROOT PROGRAM [ARGUMENT...]``.

PROGRAM is a module of the checkout at ROOT, or a file.  The first SIGUSR1 begins to count; the second one ends it and
writes the counts by layer to OUTPUT, as JSON.  A timer of processor time makes the samples, as often as the kernel's
clock ticks; CPython takes each at the end of the call that it came in, so a system call counts for the line that makes
it.  Imports nothing of the project, so that any commit can be looked at.
"""

from __future__ import annotations

import dis
import json
import linecache
import os
import re
import runpy
import signal
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

__all__ = ["LAYERS", "Sampler", "layer_of"]

PERIOD: Final = 0.001  # seconds of processor time between two samples; the kernel makes that a tick of its clock
_RECEIVING, _SENDING = "kernel: receiving", "kernel: sending"
_LOOP: Final = "event loop"
_CALLS: Final = {_RECEIVING: re.compile(r"\.(recv\w*|preadv?)\("), _SENDING: re.compile(r"\.(send\w*|pwritev?)\(")}
#: The start of a file's path below ROOT, and the layer; the first that fits counts.
_PLACES: Final = (
    ("iser/net/", "sockets and the RNIC"),
    ("iser/rdma/", "sockets and the RNIC"),
    ("iser/datamover/", "datamover"),
    ("iser/pdu/", "PDUs"),
    ("iser/sg/", "lists and registration"),
    ("iser/scsi/", "SCSI and the backend"),
    ("target/scsi/", "SCSI and the backend"),
    ("target/backends/", "SCSI and the backend"),
    ("initiator/lun.py", "SCSI and the backend"),
    ("target/", "session and tasks"),
    ("initiator/", "session and tasks"),
)
_CALLER: Final = "the caller"
#: In the order of the way of an I/O.
LAYERS: Final = (_LOOP, _RECEIVING, _SENDING, *dict.fromkeys(name for _, name in _PLACES), _CALLER)


@cache
def _place(filename: str, root: str) -> str:
    path = os.path.relpath(filename, root) if filename.startswith("/") else filename
    if filename == str(Path(__file__).with_name("client.py")):
        return _CALLER
    return next((name for start, name in _PLACES if path.startswith(start)), "")


@cache
def _begins_at(code: CodeType) -> int:
    """Where the first instruction is after which a function has begun: its RESUME."""
    return next((each.offset for each in dis.get_instructions(code) if each.opname == "RESUME"), 0)


@cache
def _call(filename: str, line: int) -> str:
    text = linecache.getline(filename, line)
    return next((name for name, calls in _CALLS.items() if calls.search(text)), "")


def layer_of(frame: FrameType, root: str) -> str:
    """The layer that has the processor in ``frame``; what Python's library does counts for its caller."""
    at: FrameType | None = frame
    while at is not None and not _place(at.f_code.co_filename, root):
        if "asyncio" in at.f_code.co_filename:
            return _LOOP
        at = at.f_back
    if at is None:
        return _LOOP
    code, back = at.f_code, at.f_back
    if at is frame and frame.f_lasti <= _begins_at(code) and back is not None and "asyncio" in back.f_code.co_filename:
        return _LOOP  # which called this function just now
    # A line that an exception is on its way from has no number.
    return _call(code.co_filename, at.f_lineno or 0) or _place(code.co_filename, root)


class Sampler:
    """Counts samples by layer."""

    def __init__(self, output: Path, root: str) -> None:
        self._output = output
        self._root = root
        self._counts: Counter[str] = Counter()
        self._running = False

    def start(self) -> None:
        """Listen to the signals."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.signal(signal.SIGUSR1, self._toggle)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is not None:
            self._counts[layer_of(frame, self._root)] += 1

    def _toggle(self, number: int, frame: FrameType | None) -> None:
        if not self._running:
            self._running = True
            signal.setitimer(signal.ITIMER_PROF, PERIOD, PERIOD)
            return
        signal.setitimer(signal.ITIMER_PROF, 0)
        unfinished = self._output.with_suffix(".new")
        unfinished.write_text(json.dumps(self._counts))
        unfinished.replace(self._output)


def main(arguments: list[str]) -> None:
    """Run the program as if it had been called by itself."""
    output, root, program, *rest = arguments
    Sampler(Path(output), root).start()
    sys.argv = [program, *rest]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
