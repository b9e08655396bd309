"""Results of a benchmark: what was measured, the JSON and CSV that hold it, and the journal to resume from.

``docs/benchmarks/schema.md`` documents the JSON.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import comb
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, Self

from initiator.bench.cases import Case
from initiator.bench.histogram import Histogram
from iser.errors import UsageError

__all__ = [
    "COUNTS",
    "PERCENTILES",
    "SCHEMA",
    "VERSION",
    "Journal",
    "Measurement",
    "Ratio",
    "Result",
    "Slice",
    "write_text",
]

SCHEMA: Final = "iser-bench"
VERSION: Final = 1
PERCENTILES: Final = (50.0, 99.0, 99.9)
_TAIL: Final = 0.025  # on each side of an interval
#: Exact counts of one transfer, in the order of tables.
COUNTS: Final = (
    "work_requests", "registrations", "local_invalidations", "remote_invalidations", "stags", "commands",
    "target_operations", "list_entries", "list_bytes", "bytes_copied", "allocations", "fallbacks", "pool_waits",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slice:
    """One repeat: ``ios`` transfers in ``seconds``; processor time of both processes in nanoseconds."""

    seconds: float
    ios: int
    initiator_cpu: int
    target_cpu: int | None


class Ratio(NamedTuple):
    """A median, and between which values that of ever more turns would lie, with a confidence of 95 %.

    With fewer than six turns these are the least and the most, which are 93 % sure for five.  Two cases that took no
    turns have the least that is possible and the most.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Self:
        """Of the ratio of each turn: by how many turns may lie on either side of the median, as coins fall."""
        ordered = sorted(ratios)
        count, beyond, seen = len(ordered), 0, 1  # of 2**count ways, those with fewer than ``beyond`` on one side
        while seen + comb(count, beyond + 1) <= _TAIL * 2**count:
            beyond += 1
            seen += comb(count, beyond)
        return cls(median(ordered), ordered[beyond], ordered[-1 - beyond])

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(slots=True)
class Measurement:
    """One case.  ``counts`` are of one transfer; ``list`` describes the first list as it lay in memory."""

    case: Case
    slices: list[Slice] = field(default_factory=list)
    latency: Histogram = field(default_factory=Histogram)  # nanoseconds
    counts: dict[str, float] = field(default_factory=dict)
    fallbacks: dict[str, float] = field(default_factory=dict)
    list: dict[str, Any] = field(default_factory=dict)
    high_water: dict[str, int] = field(default_factory=dict)
    verified: int = 0
    digest: str = ""

    @property
    def rates(self) -> Sequence[float]:
        """Bytes in a second, of each repeat."""
        return [each.ios * self.case.size / each.seconds for each in self.slices]

    @property
    def rate(self) -> float:
        """The median of the repeats."""
        return median(self.rates)

    def times(self, other: Measurement) -> Ratio:
        """How many times as fast as ``other``: where they took turns, the median of the ratios of each turn."""
        if self.case.turns != other.case.turns or len(self.slices) != len(other.slices):
            mine, theirs = self.rates, other.rates
            return Ratio(self.rate / other.rate, min(mine) / max(theirs), max(mine) / min(theirs))
        return Ratio.of([mine / theirs for mine, theirs in zip(self.rates, other.rates, strict=True)])

    @property
    def spread(self) -> float:
        """(largest - smallest) / median of the repeats."""
        return (max(self.rates) - min(self.rates)) / self.rate

    @property
    def iops(self) -> float:
        """Transfers in a second, by the median."""
        return self.rate / self.case.size

    @property
    def seconds_each(self) -> float:
        """Time between two transfers, by the median: the reciprocal of ``iops``."""
        return self.case.size / self.rate

    def cpu(self, side: str) -> float | None:
        """Nanoseconds of processor time for one transfer on the ``initiator`` or the ``target`` side."""
        spent = [getattr(each, f"{side}_cpu") for each in self.slices]
        ios = sum(each.ios for each in self.slices)
        return None if None in spent else sum(spent) / ios

    def to_json(self) -> dict[str, Any]:
        """See the schema."""
        return {
            "case": self.case.to_json(),
            "slices": [asdict(each) for each in self.slices],
            "latency": self.latency.to_json(),
            "counts": self.counts,
            "fallbacks": self.fallbacks,
            "list": self.list,
            "high_water": self.high_water,
            "verified": self.verified,
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """From what :meth:`to_json` gave."""
        return cls(
            Case(**data["case"]),
            [Slice(**each) for each in data["slices"]],
            Histogram.from_json(data["latency"]),
            data["counts"],
            data["fallbacks"],
            data["list"],
            data["high_water"],
            data["verified"],
            data["digest"],
        )


@dataclass(slots=True)
class Result:
    """All of a run."""

    kind: str
    environment: dict[str, Any]
    settings: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)

    def find(self, **wanted: Any) -> list[Measurement]:
        """The measurements whose case has these values."""
        return [each for each in self.measurements if all(getattr(each.case, name) == wanted[name] for name in wanted)]

    def to_json(self) -> dict[str, Any]:
        """See the schema."""
        return {**self.head(), "measurements": [each.to_json() for each in self.measurements]}

    def head(self) -> dict[str, Any]:
        """All but the measurements."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "kind": self.kind,
            "environment": self.environment,
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> Self:
        """From what :meth:`to_json` gave.  Raises UsageError for anything else."""
        try:
            if (data["schema"], data["version"]) != (SCHEMA, VERSION):
                raise UsageError(
                    f"{where}: is {data['schema']} version {data['version']}, and this is for {SCHEMA} version"
                    f" {VERSION}, as iser bench unaligned writes it"
                )
            measurements = [Measurement.from_json(each) for each in data["measurements"]]
            return cls(data["kind"], data["environment"], data["settings"], measurements)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{where}: is no result of iser bench ({error!r})") from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file.  Raises UsageError."""
        try:
            data = json.loads(path.read_text())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"{path}: is not JSON: {error}") from None
        return cls.from_json(data, str(path))

    def save(self, path: Path) -> None:
        """Write the JSON.  Raises UsageError."""
        write_text(path, json.dumps(self.to_json(), indent=None, separators=(",", ":")) + "\n")

    def to_csv(self) -> str:
        """One line for each case."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ("strategy", "shape", "class", "elements", "gaps", "size", "direction", "depth", "invalidate", "pool",
             "MB/s", "spread", "IOPS", *(f"p{percent:g} us" for percent in PERCENTILES),
             "initiator ns/IO", "target ns/IO", *COUNTS, "verified")
        )  # fmt: skip
        for each in self.measurements:
            case, about = each.case, each.list
            writer.writerow(
                (case.strategy, case.shape, about.get("class"), about.get("elements"), about.get("gaps"), case.size,
                 "write" if case.write else "read", case.depth, case.invalidate, case.pool,
                 f"{each.rate / 1e6:.1f}", f"{each.spread:.3f}", f"{each.iops:.0f}",
                 *(f"{each.latency.percentile(percent) / 1000:.1f}" for percent in PERCENTILES),
                 *("" if cost is None else f"{cost:.0f}" for cost in (each.cpu("initiator"), each.cpu("target"))),
                 *(each.counts.get(name, "") for name in COUNTS), each.verified)
            )  # fmt: skip
        return text.getvalue()


class Journal:
    """A line for each measurement that is complete, so that a run that was ended can go on.

    A journal of other settings is refused, so that no result is made of two different runs; one without a measurement
    is none.  Raises UsageError.
    """

    def __init__(self, path: Path, result: Result) -> None:
        self.path = path
        self.done: dict[str, Measurement] = {}
        self._head = json.dumps(result.head())
        if path.exists():
            self._read(result)

    def _read(self, result: Result) -> None:
        try:
            lines = self.path.read_text().splitlines()
            head = json.loads(lines[0])
            kind, settings = head["kind"], head["settings"]
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise UsageError(f"{self.path}: is no journal of iser bench; remove it") from None
        done = _complete(lines[1:])
        if not done:
            self.remove()
            return
        if (kind, settings) != (result.kind, json.loads(json.dumps(result.settings))):
            raise UsageError(
                f"{self.path}: is the journal of a run with other settings; choose another --output, or --restart"
            )
        result.environment = head["environment"]
        self.done = done
        # Without the line that was being written when the run ended, as the next is written after it.
        write_text(self.path, "".join(f"{line}\n" for line in lines[: 1 + len(done)]))

    def add(self, measurement: Measurement) -> None:
        """Note a measurement."""
        if not self.path.exists():
            write_text(self.path, self._head + "\n")
        self.done[measurement.case.key] = measurement
        with self.path.open("a") as file:
            file.write(json.dumps(measurement.to_json()) + "\n")

    def remove(self) -> None:
        """The run is complete, and its result saved."""
        self.path.unlink(missing_ok=True)


def _complete(lines: Sequence[str]) -> dict[str, Measurement]:
    """Measurements by key, up to the line that was being written when the run ended."""
    done: dict[str, Measurement] = {}
    for line in lines:
        try:
            measurement = Measurement.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError):
            break
        done[measurement.case.key] = measurement
    return done


def write_text(path: Path, text: str) -> None:
    """Write a file, all of it or nothing.  Raises UsageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
