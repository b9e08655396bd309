"""The pictures of a result, as PNG and SVG.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; markers and labels tell the same once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from initiator.bench.result import Measurement, Ratio, Result
from initiator.bench.shapes import SHAPES
from initiator.bench.table import size_name

__all__ = ["PLOTS", "draw_all"]

#: Colour and marker by strategy.
STYLES: Final[dict[str, tuple[str, str]]] = {
    "frwr": ("#000000", "s"),
    "indirect": ("#D55E00", "o"),
    "bounce": ("#0072B2", "v"),
    "bounce_pool": ("#56B4E9", "^"),
    "mr512": ("#009E73", "D"),
    "multi_mr": ("#CC79A7", "P"),
    "split": ("#E69F00", "X"),
    "dma_key": ("#7F7F7F", "<"),
    "auto": ("#8C564B", "*"),
    "immediate": ("#B8A800", ">"),
}
_TAIL: Final = 99.95  # percentile at which the axes of latencies end, as a few outliers would squeeze the rest
_PNG_DPI: Final = 110
_RATIO_SPAN: Final = 2.0  # the heat map's colours end at half and at twice
_DOUBT: Final = "#6b6b6b"  # of a ratio that may be on the other side of 1
_DARK: Final = 0.33  # colour values from the middle beyond which white letters read better

mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "iser",
    }
)


def draw_all(result: Result, folder: Path) -> dict[str, str]:
    """Write each plot that the result has data for as NAME.png and NAME.svg; gives titles by name."""
    drawn = {}
    for name, (title, draw) in PLOTS.items():
        figure = draw(result)
        if figure is not None:
            for suffix in ("png", "svg"):
                metadata = {"Date": None} if suffix == "svg" else {}
                figure.savefig(folder / f"{name}.{suffix}", dpi=_PNG_DPI, metadata=metadata)
                figure.set_layout_engine("none")  # it is laid out now, for both
            drawn[name] = title
    return drawn


def _direction(write: bool) -> str:
    return "write" if write else "read"


def _usual(result: Result) -> list[Measurement]:
    """All but plain sockets and local invalidation, of which there are a few for special questions."""
    found = result.measurements
    return [each for each in found if each.case.strategy in STYLES and each.case.invalidate != "local"]


def _ordered(names: set[str], order: Sequence[str]) -> list[str]:
    return [name for name in order if name in names]


def _shapes(found: Sequence[Measurement]) -> list[str]:
    return _ordered({each.case.shape for each in found}, tuple(SHAPES))


def _depths(found: Sequence[Measurement]) -> list[int]:
    """The depths of the matrix proper: those that most shapes were measured at."""
    by_depth: dict[int, set[tuple[str, int]]] = {}
    for each in found:
        by_depth.setdefault(each.case.depth, set()).add((each.case.shape, each.case.size))
    most = max(len(cells) for cells in by_depth.values())
    return sorted(depth for depth, cells in by_depth.items() if len(cells) == most)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    handles: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    labels = _ordered(set(handles), tuple(STYLES))
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=len(labels))


def bandwidth(result: Result) -> Figure | None:
    """Bytes a second against the size of a transfer: a panel for each shape and direction."""
    found = _usual(result)
    if not found:
        return None
    depth = _depths(found)[-1]
    found = [each for each in found if each.case.depth == depth]
    shapes = _shapes(found)
    sizes = sorted({each.case.size for each in found})
    figure = Figure(figsize=(max(2.1 * len(shapes) + 0.6, 8.0), 5.2), layout="constrained")
    grid = figure.subplots(2, len(shapes), sharex=True, sharey="row", squeeze=False)
    for row, write in enumerate((False, True)):
        for column, shape in enumerate(shapes):
            axes = grid[row][column]
            cases = [each for each in found if each.case.shape == shape and each.case.write == write]
            _bandwidth_panel(axes, cases, sizes)
            if row == 0:
                title = SHAPES[shape].title
                axes.set_title(f"{shape}\n{_wrap(title, 20)}")
            if column == 0:
                axes.set_ylabel(f"{_direction(write)}, GB/s")
    for row, write in enumerate((False, True)):
        # The row shares its axis, so that one limit holds for all of it.
        rates = [each.rate / 1e9 for each in found if each.case.write == write] or [1.0]
        grid[row][0].set_yscale("log")
        grid[row][0].set_ylim(min(rates) / 1.3, 1.3 * max(rates))
        grid[row][0].yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        grid[row][0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        grid[row][0].yaxis.set_minor_locator(NullLocator())
    grid[1][0].set_xlabel("size of one transfer, B")
    figure.suptitle(f"Throughput by shape and strategy, {depth} transfers at once (median; bars: least and most)")
    _legend(figure, list(grid.flat))
    return figure


def _bandwidth_panel(axes: Axes, cases: Sequence[Measurement], sizes: Sequence[int]) -> None:
    for strategy, (colour, marker) in STYLES.items():
        line = sorted((each for each in cases if each.case.strategy == strategy), key=lambda each: each.case.size)
        if line:
            rates = [each.rate / 1e9 for each in line]
            low = [(each.rate - min(each.rates)) / 1e9 for each in line]
            high = [(max(each.rates) - each.rate) / 1e9 for each in line]
            axes.errorbar(
                [each.case.size for each in line], rates, yerr=[low, high], color=colour, marker=marker,
                markersize=5, linewidth=1.3, elinewidth=0.6, label=strategy,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [_tick(size) for size in sizes])
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _tick(size: int) -> str:
    """``512``, ``64K``, ``1M``."""
    return size_name(size).replace(" ", "").replace("iB", "").removesuffix("B")


def _wrap(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _heat(other: str) -> Callable[[Result], Figure | None]:
    def draw(result: Result) -> Figure | None:
        return _heat_map(result, other)

    return draw


def _heat_map(result: Result, other: str) -> Figure | None:
    """indirect / other over shape and size, for each direction and depth."""
    found = [each for each in _usual(result) if each.case.strategy in ("indirect", other)]
    if not found:
        return None
    depths = _depths(found)
    shapes = _shapes(found)
    sizes = sorted({each.case.size for each in found if each.case.depth in depths})
    figure = Figure(
        figsize=(2.5 + 2 * len(depths) * (0.62 * len(sizes) + 0.35), 0.42 * len(shapes) + 2.3), layout="constrained"
    )
    grid = figure.subplots(1, 2 * len(depths), sharey=True, squeeze=False)[0]
    image = None
    panels = [(write, depth) for write in (False, True) for depth in depths]
    for axes, (write, depth) in zip(grid, panels, strict=True):
        image = _heat_panel(axes, found, other, (shapes, sizes), write=write, depth=depth)
        axes.set_title(f"{_direction(write)}, {depth} at once")
    grid[0].set_yticks(range(len(shapes)), [f"{shape}  {SHAPES[shape].title}" for shape in shapes])
    assert image is not None
    bar = figure.colorbar(image, ax=list(grid), shrink=0.9, pad=0.01)
    bar.set_ticks([0.5, 0.75, 1, 1.5, 2], labels=["0.5 or less", "0.75", "1", "1.5", "2 or more"])
    bar.ax.minorticks_off()
    figure.supxlabel("size of one transfer, B", fontsize="medium")
    figure.suptitle(
        f"Throughput of indirect / {other}\nabove 1, not copying is faster\n"
        "grey and slanted: may be either, with 95 % confidence",
        fontsize="medium",
    )
    return figure


def _heat_panel(
    axes: Axes, found: Sequence[Measurement], other: str, names: tuple[list[str], list[int]], *, write: bool, depth: int
) -> Any:
    shapes, sizes = names
    cases = {
        (each.case.strategy, each.case.shape, each.case.size): each
        for each in found
        if each.case.write == write and each.case.depth == depth
    }
    ratios: dict[tuple[int, int], Ratio] = {}
    for row, shape in enumerate(shapes):
        for column, size in enumerate(sizes):
            one, two = cases.get(("indirect", shape, size)), cases.get((other, shape, size))
            if one and two:
                ratios[row, column] = one.times(two)
    nothing = Ratio(float("nan"), 0, 0)
    cells = [[ratios.get((row, column), nothing).value for column in range(len(sizes))] for row in range(len(shapes))]
    norm = TwoSlopeNorm(vcenter=1.0, vmin=1 / _RATIO_SPAN, vmax=_RATIO_SPAN)
    image = axes.imshow(cells, cmap="PuOr_r", norm=norm, aspect="auto")
    for (row, column), ratio in ratios.items():
        doubtful = ratio.low < 1 < ratio.high
        dark = abs(float(norm(ratio.value)) - 0.5) > _DARK
        axes.text(
            column, row, f"{ratio.value:.2f}", ha="center", va="center", style="italic" if doubtful else "normal",
            color="white" if dark else _DOUBT if doubtful else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(sizes)), [_tick(size) for size in sizes])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _pick(found: Sequence[Measurement], size: int, shapes: Sequence[str]) -> tuple[str, int]:
    """The first of ``shapes``, and the size nearest to ``size``, that there is."""
    have = {(each.case.shape, each.case.size) for each in found}
    shape = next((name for name in shapes if any(name == other for other, _ in have)), next(iter(have))[0])
    return shape, min((each for name, each in have if name == shape), key=lambda each: abs(each - size))


def latency(result: Result) -> Figure | None:
    """Distribution of the latency of transfers of random bytes: for each direction and depth."""
    found = [each for each in _usual(result) if each.latency.total]
    if not found:
        return None
    shape, size = _pick(found, 65536, ("S8", "S4", "S5"))
    depths = _depths(found)
    found = [each for each in found if (each.case.shape, each.case.size) == (shape, size)]
    figure = Figure(figsize=(max(4.4 * len(depths), 7.0), 5.6), layout="constrained")
    grid = figure.subplots(2, len(depths), sharey=True, squeeze=False)
    for row, write in enumerate((False, True)):
        for column, depth in enumerate(depths):
            axes = grid[row][column]
            axes.set_xscale("log")
            least, most = float("inf"), 1.0
            for each in found:
                if each.case.write == write and each.case.depth == depth:
                    points = each.latency.cumulative()
                    least = min(least, points[0][0] / 1000)
                    most = max(most, each.latency.percentile(_TAIL) / 1000)
                    colour, _ = STYLES[each.case.strategy]
                    axes.step(
                        [value / 1000 for value, _ in points], [_nines(share) for _, share in points], where="post",
                        color=colour, linewidth=1.4, label=each.case.strategy,
                    )  # fmt: skip
            if least < most:
                axes.set_xlim(0.9 * least, 1.2 * most)
            _latency_axes(axes, f"{_direction(write)}, {depth} at once")
        grid[row][0].set_ylabel("% of transfers at or below")
    for axes in grid[1]:
        axes.set_xlabel("latency, us")
    figure.suptitle(f"Latency of {size_name(size)} transfers, {shape}: {SHAPES[shape].title}")
    _legend(figure, list(grid.flat))
    return figure


_SHARES: Final = (0, 50, 75, 90, 99, 99.9)


def _nines(share: float) -> float:
    """Where a share is on an axis that has as much room from 90 to 99 % as from 99 to 99.9 %."""
    return -math.log10(max(1 - share, 1e-9))


def _latency_axes(axes: Axes, title: str) -> None:
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high > 8 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelrotation=30)
    axes.set_title(title)
    axes.set_yticks([_nines(percent / 100) for percent in _SHARES], [f"{percent:g}" for percent in _SHARES])
    axes.set_ylim(0, _nines(_TAIL / 100))
    axes.grid(color="#dddddd", linewidth=0.6)


_BARS: Final = {
    "work_requests": "work requests",
    "stags": "STags",
    "target_operations": "target operations",
    "commands": "commands",
    "list_bytes": "bytes of lists",
    "bytes_copied": "bytes copied",
    "allocations": "pages allocated",
}


def counts(result: Result) -> Figure | None:
    """Exact counts of one transfer, by strategy, for shapes that differ in what they allow."""
    found = [each for each in _usual(result) if each.counts]
    if not found:
        return None
    _, size = _pick(found, 65536, ("S8",))
    depth = _depths(found)[-1]
    chosen = [shape for shape in ("S2", "S4", "S5", "S8") if shape in _shapes(found)] or _shapes(found)[:1]
    figure = Figure(figsize=(13.0, 1.0 + 1.75 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), len(_BARS), squeeze=False)
    for row, shape in enumerate(chosen):
        wanted = (shape, size, True, depth)
        cases = {each.case.strategy: each for each in found if each.case.group == wanted}
        strategies = _ordered(set(cases), tuple(STYLES))
        for column, (name, title) in enumerate(_BARS.items()):
            axes = grid[row][column]
            values = [cases[strategy].counts.get(name, 0.0) for strategy in strategies]
            axes.barh(strategies, values, color=[STYLES[strategy][0] for strategy in strategies], height=0.65)
            axes.invert_yaxis()
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(axis="y", length=0, labelleft=column == 0)
            axes.set_xlim(0, (max(values, default=0) or 1) * 1.5)
            for place, value in enumerate(values):
                axes.text(value, place, f" {value:,.0f}", va="center", fontsize=8)
            if row == 0:
                axes.set_title(title)
        grid[row][0].set_ylabel(shape)
    figure.suptitle(f"Exact counts of one {size_name(size)} write, keys invalidated remotely (scales differ)")
    return figure


#: Title and maker by file name.
PLOTS: Final[dict[str, tuple[str, Callable[[Result], Figure | None]]]] = {
    "bandwidth": ("Throughput against size", bandwidth),
    "ratio_bounce": ("indirect / bounce", _heat("bounce")),
    "ratio_bounce_pool": ("indirect / bounce_pool", _heat("bounce_pool")),
    "latency": ("Latency", latency),
    "counts": ("Exact counts", counts),
}
