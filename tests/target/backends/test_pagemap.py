"""Which pages were written."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import pytest

from target.backends import pagemap
from target.backends.pagemap import untouched_pages


def test_written_read_and_untouched_pages() -> None:
    memory = mmap.mmap(-1, 4 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[0] = 1
    assert memory[2 * mmap.PAGESIZE] == 0
    assert untouched_pages(address, 4) == [False, True, None, True]


def test_a_table_that_is_cut_short_or_missing_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pagemap, "_PAGEMAP", tmp_path / "pagemap")
    assert untouched_pages(0, 2) == [False, False]
    (tmp_path / "pagemap").write_bytes(bytes(8))
    assert untouched_pages(0, 2) == [True, False]
