"""Who registered memory hears of pages that were given back, for as long as it lives."""

from __future__ import annotations

import gc
import mmap

from iser.rdma.pages import pages_replaced, watch_pages
from target.backends.memory import MemoryBackend


class Watcher:
    def __init__(self, heard: list[tuple[int, int]]) -> None:
        self._heard = heard

    def pages_replaced(self, owner: mmap.mmap, offset: int, length: int) -> None:
        self._heard.append((offset, length))


def test_a_watcher_hears_until_it_is_gone() -> None:
    heard: list[tuple[int, int]] = []
    watcher = Watcher(heard)
    watch_pages(watcher)
    memory = mmap.mmap(-1, 8192)
    pages_replaced(memory, 4096, 4096)
    del watcher
    gc.collect()
    pages_replaced(memory, 0, 4096)
    assert heard == [(4096, 4096)]


async def test_a_memory_backend_tells_which_pages_it_gives_back() -> None:
    heard: list[tuple[int, int]] = []
    watcher = Watcher(heard)
    watch_pages(watcher)
    backend = MemoryBackend(1 << 20)
    await backend.discard(512, 3 * 4096)
    assert heard == [(4096, 2 * 4096)]
    await backend.close()
    del watcher
