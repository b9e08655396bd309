"""Tests of iser.logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from iser.errors import UsageError
from iser.logs import LogFormat, configure_logging, set_levels


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


def test_a_wrong_level_changes_nothing() -> None:
    set_levels(["iser.test=error"])
    with pytest.raises(UsageError):
        set_levels(["iser.test=debug", "loud"])
    assert logging.getLogger("iser.test").level == logging.ERROR


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(["info"], form=LogFormat.JSON)
    logger = logging.getLogger("iser.test")
    logger.info('who said "%s"', "two\nlines")
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("caught")
    plain, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert datetime.fromisoformat(plain.pop("time")).utcoffset() == timedelta(0)
    assert plain == {"level": "info", "logger": "iser.test", "message": 'who said "two\nlines"'}
    assert failed["level"] == "error"
    assert failed["exception"].endswith("ValueError: bad")


def test_lines_of_a_worker_say_of_which(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(["info"], worker=2)
    logging.getLogger("iser.test").info("hello")
    assert capsys.readouterr().err.endswith(" I iser.test worker 2: hello\n")
    configure_logging(["info"], form=LogFormat.JSON, worker=2)
    logging.getLogger("iser.test").info("hello")
    assert json.loads(capsys.readouterr().err)["worker"] == 2
