"""Writes the tables into ``docs/performance.md``: each part between two comments that name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from initiator.bench.result import write_text
from tests.benchmark.fairness import LIMIT_MS, Meeting
from tests.benchmark.host import BenchmarkError
from tests.benchmark.layers import Profile
from tests.benchmark.rows import RATIO, Row, Verdict
from tests.benchmark.sampler import LAYERS
from tests.benchmark.series import LINEAR, Series

__all__ = ["describe", "fairness_table", "growth_table", "layers_tables", "put_part", "rows_table"]

_WORDS = {Verdict.AIM: "aim", Verdict.MUST: "must", Verdict.MISSED: "**missed**", Verdict.SHOWN: ""}


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
        wanted = " | ".join("" if value is None else f"{sign} {value:g}{unit}" for value in (goal.must, goal.aim))
        measured = f"{_judged(row)}{unit} | {_WORDS[row.verdict]}"
        lines.append(f"| {goal.what} | {goal.peer} | {ours} | {theirs} | {wanted} | {measured} |")
    return lines


def growth_table(series: Sequence[Series], pictures: Mapping[str, str]) -> list[str]:
    """Each cost at both ends and its exponent; ``pictures`` are file names by what is counted."""
    worst = max(series, key=lambda each: each.exponent)
    steep = [each for each in series if each.exponent > LINEAR]
    verdict = "nothing grows faster than linearly" if not steep else f"**{len(steep)} grow faster than linearly**"
    lines = [
        f"The largest exponent is {worst.exponent:.2f} ({worst.what}, {worst.line}): {verdict}.",
        "",
        "| cost | against | iSER | exponent | TCP | exponent |",
        "|---|---|---|---|---|---|",
    ]
    rows: dict[tuple[str, str], dict[str, Series]] = {}
    for each in series:
        rows.setdefault((each.against, each.what), {})[each.line] = each
    for (against, what), found in rows.items():
        one = next(iter(found.values()))
        cells = " | ".join(_ends(found.get(line, one)) for line in ("iSER", "TCP"))
        lines.append(f"| {what} | {one.x[0]:,.0f} to {one.x[-1]:,.0f} {against} | {cells} |")
    for against, picture in pictures.items():
        lines += ["", f"![Cost against the number of {against}]({picture})"]
    return lines


def layers_tables(profiles: Sequence[Profile]) -> list[str]:
    """For each transport a table: layers down, cases and processes across, each before and after."""
    lines = []
    for transport in dict.fromkeys(each.transport for each in profiles):
        found = [each for each in profiles if each.transport == transport]
        columns: dict[tuple[str, str], list[Profile]] = {}
        for each in found:
            columns.setdefault((each.case, each.side), []).append(each)
        names = [f"{case}: {side}" for case, side in columns]
        lines += ["", f"| {transport}: us of one transfer | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for layer in LAYERS:
            lines.append(f"| {layer} | {' | '.join(_change([p.layers[layer] for p in c]) for c in columns.values())} |")
        lines.append(f"| **all** | {' | '.join(_change([p.total for p in c]) for c in columns.values())} |")
    return lines


def _change(values: Sequence[float]) -> str:
    return " → ".join(f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in values)


def _ends(series: Series) -> str:
    return f"{_number(series.y[0])} to {_number(series.y[-1])} {series.unit} | {series.exponent:.2f}"


def fairness_table(meetings: Sequence[Meeting], picture: str) -> list[str]:
    """Percentiles of the reads alone and beside the neighbour, and how much that one wrote."""
    lines = [
        "| reads over | writes over | alone: median, p99 | beside: median | p99 | p99.9 | wanted | neighbour wrote | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in meetings:
        alone = ", ".join(f"{_number(each.alone.percentile(percent) / 1e6)}" for percent in (50, 99))
        middle, most = (each.beside.percentile(percent) / 1e6 for percent in (50, 99.9))
        verdict = "fair" if each.fair else "**missed**"
        lines.append(
            f"| {each.reader} | {each.writer} | {alone} ms | {_number(middle)} ms | **{_number(each.p99_ms)} ms** | "
            f"{_number(most)} ms | ≤ {LIMIT_MS:g} ms | {_number(median(each.rates) / 1e6)} MB/s | {verdict} |"
        )
    return [*lines, "", f"![How many of the reads take how long]({picture})"]


def _judged(row: Row) -> str:
    if len(row.judged) == 1:
        return f"**{_number(row.value)}**"
    return f"**{_number(row.value)}** ({_number(min(row.judged))} to {_number(max(row.judged))})"


def _number(value: float) -> str:
    """Three digits or more: ``0.0041``, ``0.93``, ``15.8``, ``36,800``."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
