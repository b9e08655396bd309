"""The pictures of growth and fairness, as PNG.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; markers and dashes tell the same once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from initiator.bench.histogram import Histogram
from tests.benchmark.fairness import LIMIT_MS, Meeting
from tests.benchmark.series import Series

__all__ = ["draw_fairness", "draw_growth"]

#: Colour and marker by what a line is called.
_LINES: Final = {"iSER": ("#D55E00", "o"), "TCP": ("#0072B2", "v"), "both": ("#000000", "s")}
_ALONE: Final = ("#000000", ":")
_BESIDE: Final = {"iSER": ("#D55E00", "-"), "TCP": ("#0072B2", "--")}
_COLUMNS: Final = 3
_DPI: Final = 110
_RARE: Final = 1e-4  # the axis of shares ends here: one read in ten thousand
_GREY: Final = "#888888"

mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)


def draw_growth(series: Sequence[Series], path: Path) -> None:
    """All series against one quantity: a panel for each cost, a line for each transport; a dashed line is linear."""
    panels = list(dict.fromkeys(each.what for each in series))
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(3.6 * _COLUMNS, 2.7 * rows + 0.8), layout="constrained")
    grid = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes, what in zip(grid, panels, strict=False):
        _growth_panel(axes, what, [each for each in series if each.what == what])
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(f"Cost against the number of {series[0].against}")
    handles: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))
    figure.savefig(path, dpi=_DPI)


def _growth_panel(axes: Axes, what: str, lines: Sequence[Series]) -> None:
    for each in lines:
        colour, marker = _LINES[each.line]
        axes.plot(each.x, each.y, color=colour, marker=marker, markersize=4.5, linewidth=1.3, label=each.line)
    axes.set_xscale("log")
    axes.set_yscale("log")
    values = [value for each in lines for value in each.y]
    middle, span = (max(values) * min(values)) ** 0.5, max(max(values) / min(values), 10.0)
    low, high = middle / span**0.5 / 1.6, middle * span**0.5 * 1.6
    axes.set_ylim(low, high)
    last = max(lines, key=lambda each: each.y[-1])
    axes.plot(
        last.x, [last.y[-1] * x / last.x[-1] for x in last.x], color=_GREY, linestyle="--", linewidth=1, label="linear"
    )
    ticks = lines[0].x
    axes.set_xticks(ticks, [f"{tick:,.0f}" if number in _labelled(ticks) else "" for number, tick in enumerate(ticks)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 300 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("\n".join(what.split(": ")))
    axes.set_ylabel(lines[0].unit)
    axes.set_xlabel(lines[0].against)


def _labelled(ticks: Sequence[float]) -> range:
    """The indices of the ticks that have room for their numbers: all, or every other and the last."""
    step = 1 if len(ticks) < 8 else 2
    return range((len(ticks) - 1) % step, len(ticks), step)


def draw_fairness(meetings: Sequence[Meeting], path: Path) -> None:
    """How many of the reads take longer than so long: alone, and beside each neighbour."""
    readers = list(dict.fromkeys(each.reader for each in meetings))
    figure = Figure(figsize=(9.4, 4.3), layout="constrained")
    grid = figure.subplots(1, len(readers), sharey=True, sharex=True, squeeze=False)[0]
    for axes, reader in zip(grid, readers, strict=True):
        found = [each for each in meetings if each.reader == reader]
        alone = Histogram()
        for each in found:
            alone.add(each.alone)
        _tail(axes, alone, *_ALONE, "alone")
        for each in found:
            _tail(axes, each.beside, *_BESIDE[each.writer], f"beside writes over {each.writer}")
        _tail_axes(axes, f"reads over {reader}")
    grid[0].set_ylabel("share of reads that take longer")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle("4 KiB reads, one at a time, beside a session with 128 writes of 1 MiB on their way")
    figure.savefig(path, dpi=_DPI)


def _tail(axes: Axes, histogram: Histogram, colour: str, style: str, label: str) -> None:
    points = histogram.cumulative()
    axes.step(
        [value / 1e6 for value, _ in points], [max(1 - share, _RARE / 10) for _, share in points], where="post",
        color=colour, linestyle=style, linewidth=1.5, label=label,
    )  # fmt: skip


def _tail_axes(axes: Axes, title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(right=max(axes.get_xlim()[1], 10 * LIMIT_MS))
    axes.set_ylim(_RARE, 1)
    axes.set_yticks([1, 0.1, 0.01, 0.001, 0.0001], ["all", "10 %", "1 %", "0.1 %", "0.01 %"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(LIMIT_MS, color=_GREY, linewidth=1)
    axes.axhline(0.01, color=_GREY, linewidth=1)
    axes.annotate(
        f"wanted: 99 % within {LIMIT_MS:g} ms", (LIMIT_MS, 0.5), xytext=(4, 0), textcoords="offset points",
        color="#555555", fontsize=8,
    )  # fmt: skip
    axes.set_xlabel("latency, ms")
    axes.set_title(title)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
