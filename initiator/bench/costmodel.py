"""The cost model, fitted: what a work request, an entry, an operation and a copied byte cost on this machine.

``T = t_rtt + W*t_post + E*t_entry + X*t_xlat + O*t_op + A*t_alloc + C/BW_copy + L/BW_wire`` for one transfer at a time,
with the exact counts of a case as W work requests, E list entries, X pieces of memory walked, O operations of the
target, A pages allocated, C bytes copied, L bytes moved.  A software RNIC fetches no lists: that term is nil.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from initiator.bench.result import Measurement

__all__ = ["TERMS", "Fit", "fit"]

#: Term: (what it is a cost of, unit of the constant, factor to that unit).
TERMS: Final[dict[str, tuple[str, str, float]]] = {
    "t_rtt": ("a transfer as such", "us", 1e6),
    "t_post": ("a work request", "us", 1e6),
    "t_entry": ("an entry of a list", "ns", 1e9),
    "t_xlat": ("a piece of memory walked", "ns", 1e9),
    "t_op": ("an operation of the target", "us", 1e6),
    "t_alloc": ("a page allocated", "ns", 1e9),
    "copy": ("a byte copied, 1 / BW_copy", "ns/KiB", 1024e9),
    "wire": ("a byte moved, 1 / BW_wire", "ns/KiB", 1024e9),
}
_MIN_CASES: Final = 2 * len(TERMS)

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """``constants`` in seconds by term; relative errors of ``cases`` cases, and their median by strategy."""

    write: bool
    constants: dict[str, float]
    cases: int
    median_error: float
    worst_error: float
    by_strategy: dict[str, float]


def fit(measurements: Sequence[Measurement], *, write: bool) -> Fit | None:
    """Least squares of relative errors, with no constant below zero, over the cases of queue depth 1.

    None where there are too few.  ``multi_mr`` is left out, as its protocol is another.
    """
    used = [
        each
        for each in measurements
        if each.case.depth == 1 and each.case.write == write and each.counts and each.case.strategy != "multi_mr"
    ]
    if len(used) < _MIN_CASES:
        return None
    times = np.array([each.seconds_each for each in used])
    matrix = np.array([_row(each) for each in used])
    solution = _non_negative(matrix / times[:, None], np.ones(len(used)))
    errors = np.abs(matrix @ solution / times - 1)
    strategies = sorted({each.case.strategy for each in used})
    by_strategy = {
        name: median(float(error) for error, each in zip(errors, used, strict=True) if each.case.strategy == name)
        for name in strategies
    }
    constants = dict(zip(TERMS, map(float, solution), strict=True))
    return Fit(write, constants, len(used), float(np.median(errors)), float(np.max(errors)), by_strategy)


def _row(each: Measurement) -> list[float]:
    counts, about = each.counts, each.list
    copied = counts["bytes_copied"]
    # Copying walks the list once; the RNIC then sees one piece.
    return [
        1.0,
        counts["work_requests"],
        counts["list_entries"],
        float(about["elements"]),
        counts.get("target_operations", counts["commands"]),
        counts.get("allocations", 0.0),
        copied,
        float(each.case.size),
    ]


def _non_negative(matrix: Vector, wanted: Vector) -> Vector:
    """Least squares with no unknown below zero: drop the most negative one until none is left."""
    active = list(range(matrix.shape[1]))
    while True:
        solution = np.zeros(matrix.shape[1])
        # Columns differ by many orders of magnitude; scaled, none of them drowns.
        part = matrix[:, active]
        scale = np.linalg.norm(part, axis=0)
        scale[scale == 0] = 1.0
        solution[active] = np.linalg.lstsq(part / scale, wanted, rcond=None)[0] / scale
        lowest = int(np.argmin(solution))
        if solution[lowest] >= 0:
            return solution
        active.remove(lowest)
