from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from initiator import libiscsi
from initiator.libiscsi import library
from iser.errors import ResourceError


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_without_cffi_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cffi", None)
    assert libiscsi.available() == ("the libiscsi wrapper needs cffi; install it with pip install 'iser[libiscsi]'")


def test_without_libiscsi_one_sentence_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_NAMES", ("libno-such-thing.so.7",))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(ResourceError, match="apt-get install libiscsi7"):
        library.load()


@pytest.mark.skipif(bool(libiscsi.available()), reason=libiscsi.available())
def test_a_library_of_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sense of another size moves all that stands behind it; this really happened while the wrapper was written."""
    wrong = library._DECLARATIONS.replace("unsigned char specific;", "unsigned specific[2];")
    assert wrong != library._DECLARATIONS
    monkeypatch.setattr(library, "_DECLARATIONS", wrong)
    with pytest.raises(ResourceError, match="layout"):
        library.load()


@pytest.mark.skipif(bool(libiscsi.available()), reason=libiscsi.available())
def test_it_is_loaded_once() -> None:
    assert library.load() is library.load()
