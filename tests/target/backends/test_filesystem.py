"""What lies in memory."""

from __future__ import annotations

import os

import pytest

from target.backends import filesystem
from target.backends.filesystem import coherent, in_memory


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


def test_a_mapping_shows_the_file_on_what_is_known_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, known in ((0xEF53, True), (0x58465342, True), (0x6969, False), (0x794C7630, False)):  # NFS, overlayfs
        monkeypatch.setattr(filesystem, "_kind", lambda _, kind=kind: kind)
        assert coherent(0) is known
