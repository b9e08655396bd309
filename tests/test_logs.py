"""Tests of iser.logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from iser.errors import UsageError
from iser.logs import configure_logging


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Put the loggers back that a test configures."""
    root, other = logging.getLogger(), logging.getLogger("iser.test")
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    other.setLevel(logging.NOTSET)


def test_the_default_is_for_all_and_a_name_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(["iser.test=debug"])
    logging.getLogger("iser.test").debug("fine %d", 1)
    logging.getLogger("iser.elsewhere").info("not seen")
    logging.getLogger("iser.elsewhere").warning("seen")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["D iser.test fine 1", "W iser.elsewhere seen"]


def test_a_level_without_a_name_is_for_everything() -> None:
    configure_logging(["error", "iser.test=Info"], default=logging.DEBUG)
    assert logging.getLogger("iser.elsewhere").getEffectiveLevel() == logging.ERROR
    assert logging.getLogger("iser.test").getEffectiveLevel() == logging.INFO


@pytest.mark.parametrize("spec", ["loud", "iser=loud", "iser=", "="])
def test_a_level_that_does_not_exist_names_the_choices(spec: str) -> None:
    with pytest.raises(UsageError, match="use debug, info, warning or error"):
        configure_logging([spec])
