"""What lies in memory."""

from __future__ import annotations

import os

from target.backends.filesystem import in_memory


def test_a_file_in_memory_is_one() -> None:
    file = os.memfd_create("disk")
    assert in_memory(file)
    os.close(file)


def test_others_are_not() -> None:
    file = os.open("/proc/self/status", os.O_RDONLY)
    assert not in_memory(file)
    os.close(file)


def test_nor_is_what_cannot_be_asked() -> None:
    assert not in_memory(-1)
