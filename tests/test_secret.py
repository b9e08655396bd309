"""Secrets: their bounds, where they come from, and that they show nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from iser.errors import UsageError
from iser.secret import MAX_SECRET, MIN_SECRET, Secret

WORDS = "correct horse battery"


@pytest.mark.parametrize("length", [0, MIN_SECRET - 1, MAX_SECRET + 1])
def test_a_secret_of_a_bad_length_is_refused_without_showing_it(length: int) -> None:
    with pytest.raises(UsageError, match=f"has {length} bytes; CHAP needs 12 to 255") as caught:
        Secret(b"x" * length)
    assert "xx" not in str(caught.value)


@pytest.mark.parametrize("length", [MIN_SECRET, MAX_SECRET])
def test_the_bounds_themselves_are_fine(length: int) -> None:
    assert len(Secret(b"x" * length).reveal()) == length


def test_no_text_form_shows_it() -> None:
    secret = Secret(WORDS.encode())
    assert WORDS not in f"{secret} {secret!r} {[secret]}"


def test_equal_secrets_are_equal() -> None:
    assert Secret(WORDS.encode()) == Secret(WORDS.encode())
    assert len({Secret(WORDS.encode()), Secret(WORDS.encode()), Secret(b"y" * 12)}) == 2


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\nsecond line\n"])
def test_the_first_line_of_a_file_counts(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes((WORDS + ending).encode())
    path.chmod(0o600)
    assert Secret.from_file(path).reveal() == WORDS.encode()


def test_a_file_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(WORDS)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        Secret.from_file(path)


def test_a_file_that_is_not_there_or_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing cannot be read"):
        Secret.from_file(tmp_path / "nothing")
    path = tmp_path / "long"
    path.write_bytes(b"x" * 4096)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=r"the secret in .*long has \d+ bytes"):
        Secret.from_file(path)


def test_the_environment() -> None:
    assert Secret.from_environment("A", {"A": WORDS}).reveal() == WORDS.encode()
    with pytest.raises(UsageError, match="variable A is not set"):
        Secret.from_environment("A", {})
