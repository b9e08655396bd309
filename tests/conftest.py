"""What is done for speed in the whole suite."""

from __future__ import annotations

import gc
import os

import pytest

__all__ = ["pytest_collection_finish", "pytest_configure", "pytest_xdist_auto_num_workers"]


def pytest_xdist_auto_num_workers() -> int:
    """How many ``-n auto`` are: one more than there are processors, for many tests wait for a peer or a clock."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_configure() -> None:
    """Collecting makes much that stays and next to no garbage."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Thousands of collected tests live to the end: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()
