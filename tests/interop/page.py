"""Writes the matrix as ``docs/interop.md``."""

from __future__ import annotations

from collections.abc import Mapping

from tests.interop.matrix import Cell, Matrix, Row, Verdict

__all__ = ["render"]

_WORDS = {
    Verdict.PASS: "pass",
    Verdict.KNOWN: "**fail** (peer's fault)",
    Verdict.FAIL: "**FAIL**",
    Verdict.NOT_OFFERED: "not offered",
}
_UNTRIED = "-"


def render(matrix: Matrix, versions: Mapping[str, str], seconds: float) -> str:
    """The page, in Markdown.  ``seconds`` is how long the run took."""
    lines = [
        "# Interoperability",
        "",
        "Written by `make interop`.  Each `pass` and `fail` has been run, most of them in the virtual machine that",
        "`tests/lab/` boots; it is emulated, so nothing here says how fast anything is.  `not offered` is either what",
        "the peer answered or, where the note says so, read in its source and not run.",
        "",
        *(f"* {name}: {value}" for name, value in versions.items()),
        f"* This run: {seconds / 60:.1f} minutes; {_counts(matrix)}",
        "",
        f"`{_UNTRIED}` means that the row has no such test.",
    ]
    for group, rows in matrix.groups().items():
        lines += ["", f"## Our {group}", "", *_table(matrix, rows)]
    if matrix.faults:
        lines += ["", "## Faults of peers that we work round", "", *_faults(matrix)]
    return "\n".join(lines) + "\n"


def _counts(matrix: Matrix) -> str:
    return ", ".join(f"{matrix.count(verdict)} {verdict.value}" for verdict in Verdict)


def _table(matrix: Matrix, rows: list[Row]) -> list[str]:
    lines = [
        f"| feature | {' | '.join(row.fabric for row in rows)} | notes |",
        f"|---|{'---|' * len(rows)}---|",
    ]
    for feature in matrix.features(rows):
        cells = [matrix.cell(row, feature) for row in rows]
        words = " | ".join(_WORDS[cell.verdict] if cell else _UNTRIED for cell in cells)
        lines.append(f"| {feature} | {words} | {_notes(rows, cells)} |")
    return lines


def _notes(rows: list[Row], cells: list[Cell | None]) -> str:
    several = len(rows) > 1
    said: dict[str, list[str]] = {}
    for row, cell in zip(rows, cells, strict=True):
        for note in cell.notes if cell else ():
            said.setdefault(note, []).append(row.fabric)
    return "; ".join(
        _escape(f"{', '.join(where)}: {note}" if several and len(where) < len(rows) else note)
        for note, where in said.items()
    )


def _faults(matrix: Matrix) -> list[str]:
    lines = ["| peer | fault | shown in this run | notes |", "|---|---|---|---|"]
    for fault in sorted(matrix.faults, key=lambda fault: (fault.peer, fault.what)):
        shown = "yes" if fault.shown else "not this time"
        lines.append(f"| {fault.peer} | {_escape(fault.what)} | {shown} | {_escape(fault.note)} |")
    return lines


def _escape(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
