"""Tests of tests.benchmark.rows: what is judged, how, and what counts as a collapse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmark.host import BenchmarkError
from tests.benchmark.page import rows_table
from tests.benchmark.rows import GOALS, Row, Verdict, collapsed, load_rows, save_rows

FAST = GOALS["tcp-4k-d32"]  # at least 1.3, better 2.0
CPU = GOALS["cpu"]  # at most 0.7, better 0.5
SHOWN = GOALS["iser-1m-write-local"]
MEMORY = GOALS["memory-iser"]  # at most 300 KiB, better 100


def test_a_ratio_is_the_median_of_the_pairs() -> None:
    row = Row(FAST, [30.0, 20.0, 40.0], [10.0, 10.0, 10.0])
    assert row.ratios == [3.0, 2.0, 4.0]
    assert row.value == 3.0


@pytest.mark.parametrize(("ours", "verdict"), [(1.29, Verdict.MISSED), (1.3, Verdict.MUST), (2.0, Verdict.AIM)])
def test_more_is_better(ours: float, verdict: Verdict) -> None:
    assert Row(FAST, [ours], [1.0]).verdict is verdict


@pytest.mark.parametrize(("ours", "verdict"), [(0.71, Verdict.MISSED), (0.7, Verdict.MUST), (0.5, Verdict.AIM)])
def test_less_is_better_of_processor_time(ours: float, verdict: Verdict) -> None:
    assert Row(CPU, [ours], [1.0]).verdict is verdict


def test_a_row_without_a_goal_is_shown_and_not_judged(tmp_path: Path) -> None:
    row = Row(SHOWN, [1.0], [2.0])
    assert (row.value, row.verdict) == (0.5, Verdict.SHOWN)
    save_rows(tmp_path / "peers.json", {}, {}, [row])
    assert load_rows(tmp_path / "peers.json") == {SHOWN.key: row}
    assert rows_table([row])[-1].endswith("|  |  | **0.50** |  |")


def test_memory_is_judged_by_itself_whatever_the_peer_needs() -> None:
    row = Row(MEMORY, [80.0], [15.0])
    assert (row.value, row.verdict) == (80.0, Verdict.AIM)


def test_a_collapse_is_less_than_half_as_good() -> None:
    committed = {"tcp-4k-d32": Row(FAST, [2.0], [1.0]), "cpu": Row(CPU, [0.3], [1.0])}
    assert collapsed([Row(FAST, [1.0], [1.0]), Row(CPU, [0.6], [1.0])], committed) == []
    lines = collapsed([Row(FAST, [0.9], [1.0]), Row(CPU, [0.7], [1.0])], committed)
    assert ["0.90 ratio at best, committed 2.00" in lines[0], "0.70 ratio at best, committed 0.30" in lines[1]] == [
        True
    ] * 2
    assert collapsed([Row(FAST, [0.1, 1.5], [1.0, 1.0]), Row(CPU, [9.0, 0.5], [1.0, 1.0])], committed) == []


def test_a_row_that_was_not_committed_cannot_collapse() -> None:
    assert collapsed([Row(FAST, [0.1], [1.0])], {}) == []


def test_a_result_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    rows = [Row(FAST, [1.0, 2.0], [3.0, 4.0]), Row(MEMORY, [5.0], [6.0])]
    save_rows(path, {"load": [0.1]}, {"pairs": 2}, rows)
    assert load_rows(path) == {"tcp-4k-d32": rows[0], "memory-iser": rows[1]}
    assert json.loads(path.read_text())["rows"][0]["verdict"] == "MISSED"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": "else", "version": 1}', '{"schema": "iser-peers", "version": 1}']
)
def test_what_is_no_result_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match="make bench-peers"):
        load_rows(path)


def test_rows_that_are_known_no_more_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    save_rows(path, {}, {}, [Row(FAST, [1.0], [1.0])])
    path.write_text(path.read_text().replace("tcp-4k-d32", "tcp-of-old"))
    assert load_rows(path) == {}
