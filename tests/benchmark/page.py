"""Writes the tables into ``docs/performance.md``: each part between two comments that name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from initiator.bench.result import write_text
from tests.benchmark.host import BenchmarkError
from tests.benchmark.rows import RATIO, Row, Verdict

__all__ = ["describe", "put_part", "rows_table"]

_WORDS = {Verdict.AIM: "aim", Verdict.MUST: "must", Verdict.MISSED: "**missed**"}


def put_part(page: Path, name: str, lines: Iterable[str]) -> None:
    """Put ``lines`` between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.  Raises BenchmarkError, UsageError."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    text = page.read_text()
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise BenchmarkError(f"{page} has no place for {name!r}: give it the lines {begin} and {end}")
    write_text(page, f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}")


def describe(environment: Mapping[str, Any]) -> list[str]:
    """One sentence on what a result was measured on."""
    load = environment["load"][0]
    peers = ", ".join(f"{name} {environment[name]}" for name in ("tgt", "libiscsi-bin") if environment.get(name))
    return [
        f"{environment['started'][:10]}, {environment['python']}, {environment['event_loop']}, "
        f"{environment['processors']} processors ({environment['processor']}), {environment['system']}, "
        f"load at the start {load}{'; ' + peers if peers else ''}.",
    ]


def rows_table(rows: Sequence[Row]) -> list[str]:
    """The comparison, in Markdown: medians of both sides, and what is judged with its least and most."""
    lines = [
        "| what is compared | with | ours | theirs | must | aim | measured | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        goal = row.goal
        sign = "≤" if goal.lower else "≥"
        unit = "" if goal.unit == RATIO else f" {goal.unit}"
        ours, theirs = (f"{_number(median(side))} {goal.of}" for side in (row.ours, row.peer))
        wanted = " | ".join(f"{sign} {value:g}{unit}" for value in (goal.must, goal.aim))
        measured = f"{_judged(row)}{unit} | {_WORDS[row.verdict]}"
        lines.append(f"| {goal.what} | {goal.peer} | {ours} | {theirs} | {wanted} | {measured} |")
    return lines


def _judged(row: Row) -> str:
    if len(row.judged) == 1:
        return f"**{_number(row.value)}**"
    return f"**{_number(row.value)}** ({_number(min(row.judged))} to {_number(max(row.judged))})"


def _number(value: float) -> str:
    """Three digits or more: ``0.93``, ``15.8``, ``36,800``."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
