"""Holes in files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from target.backends.holes import file_extents, punch_hole

SIZE = 64 << 10


def test_holes_are_punched_and_found_in_whole_blocks(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    assert file_extents(fd, 0, SIZE, 9, 512) == [(SIZE, False)]
    os.pwrite(fd, b"x" * SIZE, 0)
    punch_hole(fd, 8192, 8192)
    assert file_extents(fd, 0, SIZE, 9, 4096) == [(8192, True), (8192, False), (SIZE - 16384, True)]
    assert file_extents(fd, 512, 1024, 9, 512) == [(1024, True)]
    assert file_extents(fd, 0, SIZE, 2, 4096) == [(8192, True), (8192, False)]
    assert file_extents(fd, 0, 32768, 9, 16384) == [(32768, True)]  # a block that is mapped in part is mapped
    assert os.fstat(fd).st_size == SIZE
    os.close(fd)


def test_what_has_no_holes() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(OSError, match=r"Operation not supported|No such device|Not a typewriter|Invalid"):
        punch_hole(fd, 0, 512)
    os.close(fd)
