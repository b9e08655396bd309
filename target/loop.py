"""The event loop that a target runs on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

__all__ = ["leave", "run"]


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` to its end, on uvloop where there is one."""
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - CPython only, and only a server pays for importing it

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def leave() -> NoReturn:
    """End the process now, as a failure: to end in good order would be to wait for threads that are stuck."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
