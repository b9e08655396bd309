"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from initiator.bench.result import PERCENTILES, Measurement, Result

__all__ = ["number", "show", "size_name"]

_COUNT_COLUMNS: Final = {
    "work_requests": "WRs",
    "stags": "STags",
    "target_operations": "ops",
    "list_entries": "entries",
    "list_bytes": "list B",
    "bytes_copied": "copied B",
}
_MARKS: Final = {"bounce": "B of bounce memory", "slots": "B of slots"}


def size_name(size: int) -> str:
    """``512 B``, ``64 KiB``, ``1 MiB``."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):g} {unit}"
    return f"{size} B"


def number(value: float | None) -> str:
    """A count of one transfer: whole where it is."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def show(result: Result, console: Console) -> None:
    """One table for each shape, size, direction and depth."""
    groups: dict[object, list[Measurement]] = {}
    for each in result.measurements:
        groups.setdefault(each.case.group, []).append(each)
    for group in groups.values():
        console.print(_table(group))
        for each in group:
            if notes := _notes(each):
                console.print(f"  {each.case.strategy}, {each.case.invalidate}: {notes}", highlight=False)


def _notes(each: Measurement) -> str:
    """What has no column: pages allocated, waits and fallbacks of one transfer, and what was in use at most."""
    counts = {name: each.counts.get(name) or 0 for name in ("allocations", "pool_waits")}
    words = [f"{number(count)} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    words += [f"{number(count)} fallbacks, {reason}" for reason, count in each.fallbacks.items() if count]
    marks = ", ".join(f"{most:,} {_MARKS.get(name, name.replace('_', ' '))}" for name, most in each.high_water.items())
    if marks:
        words.append(f"in use at once so far, at most: {marks}")
    return "; ".join(words)


def _table(group: Sequence[Measurement]) -> Table:
    case, about = group[0].case, group[0].list
    title = (
        f"{case.shape}, {size_name(case.size)} {'write' if case.write else 'read'}, depth {case.depth}:"
        f" {about['class']}, {about['elements']} elements, {about['gaps']} gaps"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("strategy", no_wrap=True)
    table.add_column("inv", no_wrap=True)
    names = ("MB/s", "±%", "IOPS", *(f"p{percent:g} us" for percent in PERCENTILES), "CPU us", "peer us")
    for name in (*names, *_COUNT_COLUMNS.values()):
        table.add_column(name, justify="right", no_wrap=True)
    best = max(each.rate for each in group)
    for each in group:
        cells = [
            f"{each.rate / 1e6:,.0f}",
            f"{50 * each.spread:.0f}",
            f"{each.iops:,.0f}",
            *(
                f"{each.latency.percentile(percent) / 1000:,.0f}" if each.latency.total else "-"
                for percent in PERCENTILES
            ),
            *("-" if cost is None else f"{cost / 1000:,.0f}" for cost in (each.cpu("initiator"), each.cpu("target"))),
            *(number(each.counts.get(name)) for name in _COUNT_COLUMNS),
        ]
        style = "bold" if each.rate == best and len(group) > 1 else ""
        table.add_row(each.case.strategy, each.case.invalidate, *cells, style=style)
    return table
