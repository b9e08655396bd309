"""Tests of target.config.base: how strict tables are, and where paths start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BeforeValidator, ValidationError

from iser.errors import UsageError
from target.config.base import Table, resolve_path


class Sample(Table):
    """A table with a key of each kind that matters."""

    count: int = 0
    path: Annotated[Path | None, BeforeValidator(resolve_path)] = None


@pytest.mark.parametrize(
    ("table", "words"),
    [({"cuont": 1}, "Extra inputs"), ({"count": "1"}, "valid integer"), ({"count": True}, "integer")],
)
def test_what_is_not_meant_is_not_taken(table: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Sample.model_validate(table)


def test_values_stay_as_they_are() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sample().count = 2


def test_paths_start_from_the_folder_of_the_file() -> None:
    folder = Path("/etc/iser")
    assert Sample.model_validate({"path": "disk"}, context=folder).path == folder / "disk"
    assert Sample.model_validate({"path": "/srv/disk"}, context=folder).path == Path("/srv/disk")


@pytest.mark.parametrize("wrong", ["", 7, "a\0b"])
def test_what_is_no_path_is_said(wrong: object) -> None:
    with pytest.raises((ValidationError, UsageError), match="is not a path; write a text in quotes"):
        Sample.model_validate({"path": wrong}, context=Path("/"))
