"""Loading libnbd."""

from __future__ import annotations

import ctypes.util

import pytest

from iser.errors import BackendError
from target.backends import libnbd
from target.backends.nbd import NbdBackend


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: "libnothing.so.0")
    libnbd.library.cache_clear()
    try:
        with pytest.raises(BackendError, match="an nbd LUN needs libnbd; install the package libnbd0") as caught:
            NbdBackend("nbd://localhost")
        assert "\n" not in str(caught.value)
    finally:
        libnbd.library.cache_clear()
