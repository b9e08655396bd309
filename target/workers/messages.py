"""Requests of the parent and answers of a worker, as bytes.

Requests carry whole configurations as Python writes its own objects.  Answers are JSON, because a worker talks to
strangers: nothing that it says may be more than data to the parent.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from iser.errors import ConnectionLost, IserError, UsageError
from iser.logs import LogFormat
from target.workers.assignment import Assignment

__all__ = ["Answer", "Json", "Logging", "Request", "Start"]

#: Objects, lists and values as JSON has them.
Json = Any


@dataclass(frozen=True, slots=True)
class Logging:
    """What the command line says of logging: levels by name, "" for all, and the form of a line."""

    levels: Mapping[str, str] = field(default_factory=dict)
    form: LogFormat = LogFormat.TEXT

    @staticmethod
    def of(specs: Iterable[str], form: LogFormat) -> Logging:
        """What ``--log`` was given."""
        return Logging(form=form).changed(specs)

    @property
    def specs(self) -> list[str]:
        """As ``--log`` takes them, that for all first."""
        return [f"{name}={level}" if name else level for name, level in sorted(self.levels.items())]

    def changed(self, specs: Iterable[str]) -> Logging:
        """The same after ``specs``."""
        changes = {name: level for name, _, level in (spec.rpartition("=") for spec in specs)}
        return Logging({**self.levels, **changes}, self.form)


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker has to serve; ``portals`` has two sockets each among the descriptors: shared, and its own."""

    assignment: Assignment
    portals: tuple[str, ...]
    logging: Logging


@dataclass(frozen=True, slots=True)
class Request:
    """``arguments`` are what ``command`` takes; answers find theirs by ``number``."""

    number: int
    command: str
    arguments: Any

    def encode(self) -> bytes:
        """As bytes."""
        return pickle.dumps(self)

    @staticmethod
    def decode(data: bytes) -> Request:
        """From our parent, whose bytes only it could write."""
        request = pickle.loads(data)  # noqa: S301 - over a socket pair that the parent made for us
        assert isinstance(request, Request)
        return request


@dataclass(frozen=True, slots=True)
class Answer:
    """``value`` is the result, or where ``error`` is set its words; ``usage`` tells whose fault that was."""

    number: int
    value: Json
    error: bool = False
    usage: bool = False

    def encode(self) -> bytes:
        """As bytes."""
        return json.dumps([self.number, self.value, self.error, self.usage]).encode()

    @staticmethod
    def decode(data: bytes) -> Answer:
        """Raises ConnectionLost for what no worker of ours says."""
        try:
            number, value, error, usage = json.loads(data)
        except (ValueError, TypeError, RecursionError) as problem:
            raise ConnectionLost("a worker said what is no answer") from problem
        if not isinstance(number, int):
            raise ConnectionLost("a worker said what is no answer")
        return Answer(number, value, bool(error), bool(usage))

    def failure(self) -> IserError | None:
        """The error, in the worker's own words; None for a result."""
        if not self.error:
            return None
        return (UsageError if self.usage else IserError)(str(self.value))
