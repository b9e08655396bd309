"""Telling whoever registered memory that other pages are behind its addresses now.

A registration of a real RDMA device is of pages, not of addresses: after ``madvise(MADV_DONTNEED)`` the device goes on
reading and writing the old pages, which nobody else sees any more.
"""

from __future__ import annotations

import mmap
from typing import Final, Protocol
from weakref import WeakSet

__all__ = ["PageWatcher", "pages_replaced", "watch_pages"]


class PageWatcher(Protocol):
    """Who keeps registrations."""

    def pages_replaced(self, owner: mmap.mmap, offset: int, length: int) -> None:
        """Bytes ``offset`` to ``offset + length`` of ``owner`` lie in other pages than before."""


_watchers: Final[WeakSet[PageWatcher]] = WeakSet()


def watch_pages(watcher: PageWatcher) -> None:
    """Have ``watcher`` told as long as it lives."""
    _watchers.add(watcher)


def pages_replaced(owner: mmap.mmap, offset: int, length: int) -> None:
    """Say that the system was given pages of ``owner`` back; call it before anything else can run."""
    for watcher in list(_watchers):
        watcher.pages_replaced(owner, offset, length)
