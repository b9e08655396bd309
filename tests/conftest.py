"""What is done for the whole suite: for speed, and to start as at a terminal."""

from __future__ import annotations

import gc
import os
import signal

import pytest

__all__ = ["pytest_collection_finish", "pytest_configure", "pytest_xdist_auto_num_workers"]


def pytest_xdist_auto_num_workers() -> int:
    """How many ``-n auto`` are: one more than there are processors, for many tests wait for a peer or a clock."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_configure() -> None:
    """Collecting makes much that stays and next to no garbage.

    A shell ignores SIGINT for what it runs in the background; so would the processes that tests start and interrupt.
    """
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Thousands of collected tests live to the end: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()
