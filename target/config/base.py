"""What every table of the configuration is."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationInfo

from iser.errors import UsageError

__all__ = ["Table", "resolve_path"]


class Table(BaseModel):
    """Base of the tables: unknown keys are refused, types are not converted, values do not change later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def resolve_path(value: object, info: ValidationInfo) -> Path:
    """A path; relative ones start from the directory that the validation was given as its context."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{value!r} is not a path; write a text in quotes")
    assert isinstance(info.context, Path)  # given by whoever validates
    return info.context / value
