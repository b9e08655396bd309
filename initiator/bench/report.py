"""A report of a result: Markdown with its pictures beside it, and one HTML file that holds all.

Needs the ``bench`` extra (matplotlib, numpy), which :func:`write_report` says when it is missing.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from initiator.bench.goals import Goal, goals_of
from initiator.bench.result import PERCENTILES, Measurement, Result, write_text
from initiator.bench.table import number, size_name
from iser.errors import UsageError

if TYPE_CHECKING:
    from initiator.bench.costmodel import Fit

__all__ = ["check_report", "write_report"]

#: What a software RNIC can and cannot claim; part of every report.
CLAIMS: Final = (
    "What these numbers can say: exact counts (work requests, STags, operations, bytes of lists, bytes copied) hold for"
    " any RNIC that works this way. Ratios of times within one run say what copying, splitting and queueing cost a"
    " program that runs on processors like these.",
    "What they cannot say: how fast an RDMA card is. Here the RNIC is software, in Python, on the processors that also"
    " run the benchmark and the target, and the wire is the loopback interface. Walking a list of elements costs"
    " processor time that a card does not take from the host, and a card's own costs (fetching a list by DMA, a look-up"
    " for each page or element) do not appear at all. Times compare within one run only.",
)
_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
body { color: #111; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { border-bottom: 1px solid #ddd; padding: .2em .6em; text-align: right; }
th:first-child, td:first-child, .text td, .text th { text-align: left; }
th { position: sticky; top: 0; background: #fff; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
"""
_COLUMNS: Final = (
    "strategy", "shape", "size", "direction", "depth", "invalidate", "MB/s", "spread %", "IOPS",
    *(f"p{percent:g} us" for percent in PERCENTILES), "initiator us/IO", "target us/IO", "WRs", "STags", "ops",
    "entries", "list B", "copied B",
)  # fmt: skip

Rows = Sequence[Sequence[str]]


def check_report(folder: Path) -> None:
    """Raises UsageError where :func:`write_report` would: better before hours of measuring than after them."""
    try:
        from initiator.bench import costmodel, plots  # noqa: F401, PLC0415 - of the bench extra
    except ImportError as error:
        raise UsageError(f"the report needs {error.name}; install the bench extra: pip install 'iser[bench]'") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made a folder for the report: {error.strerror}") from None


def write_report(result: Result, folder: Path) -> None:
    """Write ``report.md``, ``report.html`` and the plots.  Raises UsageError without the extra or for no data."""
    check_report(folder)
    from initiator.bench import costmodel, plots  # noqa: PLC0415 - of the bench extra

    if not result.measurements:
        raise UsageError("the result has no measurements; run iser bench unaligned to its end")
    drawn = plots.draw_all(result, folder)
    fits = [costmodel.fit(result.measurements, write=write) for write in (False, True)]
    model = [each for each in fits if each is not None]
    units = {name: (what, unit, factor) for name, (what, unit, factor) in costmodel.TERMS.items()}
    sections = _sections(result, model, units, _registration(folder))
    write_text(folder / "report.md", _markdown(sections, drawn))
    write_text(folder / "report.html", _html(sections, drawn, folder, result))


class _Section:
    """A heading, paragraphs and a table; or the place of the pictures."""

    def __init__(self, title: str, words: Sequence[str] = (), head: Sequence[str] = (), rows: Rows = ()) -> None:
        self.title = title
        self.words = words
        self.head = head
        self.rows = rows


def _sections(
    result: Result, model: Sequence[Fit], units: dict[str, tuple[str, str, float]], registration: Sequence[_Section]
) -> list[_Section]:
    return [
        _Section("What the numbers can and cannot say", CLAIMS),
        *_goal_sections(goals_of(result)),
        _Section("Pictures"),
        *registration,
        *(_model_section(each, units) for each in model),
        _environment(result),
    ]


def _goal_sections(goals: Sequence[Goal]) -> list[_Section]:
    if not goals:
        return []
    reached, open_ = (sum(goal.verdict == verdict for goal in goals) for verdict in ("yes", "open"))
    words = (
        f"{reached} of {len(goals)} reached, {open_} open. A ratio is the median of the ratios of each turn, and in"
        " brackets is where that of ever more turns would lie (95 % confidence); open is what misses the goal by less"
        " than that.",
    )
    rows = [(goal.what, goal.value, goal.wanted, goal.verdict) for goal in goals]
    return [_Section("Goals", words, ("what", "measured", "goal", "reached"), rows)]


def _model_section(fit: Fit, units: dict[str, tuple[str, str, float]]) -> _Section:
    words = (
        "T = t_rtt + W t_post + E t_entry + X t_xlat + O t_op + A t_alloc + C / BW_copy + L / BW_wire, fitted to the"
        f" {fit.cases} cases of one transfer at a time by least squares of relative errors, no constant below zero."
        f" Error: median {fit.median_error:.1%}, worst {fit.worst_error:.1%}; median by strategy: "
        + ", ".join(f"{name} {error:.1%}" for name, error in fit.by_strategy.items())
        + ". A constant of 0 means that another term, which grows with it in these cases, explains the cost as well.",
    )
    rows = [
        (name, units[name][0], f"{value * units[name][2]:.3g} {units[name][1]}")
        for name, value in fit.constants.items()
    ]
    return _Section(
        f"Cost model, {'writes' if fit.write else 'reads'}", words, ("constant", "the cost of", "value"), rows
    )


def _registration(folder: Path) -> list[_Section]:
    """What ``iser bench mr`` left in the folder, if it did."""
    try:
        data = json.loads((folder / "mr.json").read_text())
        rows = [
            (str(row["elements"]), *(f"{row[name] / 1000:.2f}" for name in ("of", "classify", "register", "again")),
             f"{(row['classify'] + row['register']) / row['elements']:.0f}")
            for row in data["rows"]
        ]  # fmt: skip
        sizes: dict[str, list[str]] = {}
        for each in data["crossovers"]:
            sizes.setdefault(each["shape"], []).append("never" if each["size"] is None else size_name(each["size"]))
    except (OSError, ValueError, KeyError, TypeError):
        return []
    words = (
        "Processor time on the initiator, without any transfer. `of` makes the list from views, `classify` finds out"
        " its shape, `register` maps it and carries the work request out, `again` is all of it for a list used before.",
    )
    head = ("elements", "of us", "classify us", "register us", "again us", "ns/element, first use")
    registration = _Section("Registration by number of elements", words, head, rows)
    crossing = _Section(
        "From which size on registering costs less processor time than copying",
        (),
        ("shape", "against bounce", "against bounce_pool"),
        [(shape, *cells) for shape, cells in sizes.items()],
    )
    return [registration, crossing] if sizes else [registration]


def _environment(result: Result) -> _Section:
    rows = [(name, str(value)) for name, value in {**result.environment, **result.settings}.items()]
    return _Section("Environment and settings", (), ("", ""), rows)


def _markdown(sections: Sequence[_Section], drawn: dict[str, str]) -> str:
    lines = ["# Benchmark of scatter-gather shapes and registration strategies", ""]
    lines += [
        "Written by `iser bench`. [How it is measured](method.md); [all cases](result.csv); [the JSON](schema.md).",
        "",
    ]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for words in section.words:
            lines += [words, ""]
        if section.title == "Pictures":
            for name, title in drawn.items():
                lines += [f"![{title}]({name}.svg)", ""]
        if section.rows:
            lines.append("| " + " | ".join(section.head) + " |")
            lines.append("|" + "---|" * len(section.head))
            lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in section.rows]
            lines.append("")
    return "\n".join(lines)


def _html(sections: Sequence[_Section], drawn: dict[str, str], folder: Path, result: Result) -> str:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>iser bench</title><style>{_STYLE}</style>",
        "<h1>Benchmark of scatter-gather shapes and registration strategies</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(words)}</p>" for words in section.words]
        if section.title == "Pictures":
            parts += [_image(folder / f"{name}.svg", title) for name, title in drawn.items()]
        if section.rows:
            parts.append(_html_table(section.head, section.rows, "text"))
    parts.append("<h2>All cases</h2>")
    parts.append(_html_table(_COLUMNS, [_row(each) for each in result.measurements], ""))
    return "\n".join([*parts, "</html>", ""])


def _image(path: Path, title: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(title)}" src="data:image/svg+xml;base64,{data}"></p>'


def _html_table(head: Sequence[str], rows: Rows, kind: str) -> str:
    lines = [f'<div class=scroll><table class="{kind}"><tr>']
    lines += [f"<th>{html.escape(name)}" for name in head]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows]
    return "\n".join([*lines, "</table></div>"])


def _row(each: Measurement) -> list[str]:
    case = each.case
    names = ("work_requests", "stags", "target_operations", "list_entries", "list_bytes", "bytes_copied")
    counts: list[Any] = [each.counts.get(name) for name in names]
    costs = (each.cpu("initiator"), each.cpu("target"))
    return [
        case.strategy, case.shape, size_name(case.size), "write" if case.write else "read", str(case.depth),
        case.invalidate, f"{each.rate / 1e6:,.0f}", f"{100 * each.spread:.0f}", f"{each.iops:,.0f}",
        *(f"{each.latency.percentile(percent) / 1000:,.0f}" if each.latency.total else "-" for percent in PERCENTILES),
        *("-" if cost is None else f"{cost / 1000:,.0f}" for cost in costs),
        *(number(count) for count in counts),
    ]  # fmt: skip
