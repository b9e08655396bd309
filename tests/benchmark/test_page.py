"""Tests of tests.benchmark.page: the parts of the page, and what its tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from initiator.bench.environment import describe_environment
from initiator.bench.histogram import Histogram
from tests.benchmark.fairness import Meeting
from tests.benchmark.host import BenchmarkError
from tests.benchmark.page import describe, fairness_table, growth_table, put_part, rows_table
from tests.benchmark.rows import GOALS, Row
from tests.benchmark.series import Series


def test_a_part_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin a -->\nold\n<!-- end a -->\nbetween\n<!-- begin b -->\nb\n<!-- end b -->\n")
    put_part(page, "a", ["new", "lines"])
    put_part(page, "a", ["newer"])
    expected = "before\n<!-- begin a -->\nnewer\n<!-- end a -->\nbetween\n<!-- begin b -->\nb\n<!-- end b -->\n"
    assert page.read_text() == expected
    with pytest.raises(BenchmarkError, match="no place for 'c'"):
        put_part(page, "c", [])
    assert page.read_text() == expected


def test_a_row_shows_both_sides_the_goal_and_the_spread() -> None:
    line = rows_table([Row(GOALS["tcp-4k-d32"], [60000, 50000, 70000], [30000, 30000, 30000])])[-1]
    assert "| 60,000 IOPS | 30,000 IOPS | ≥ 1.3 | ≥ 2 | **2.00** (1.67 to 2.33) | aim |" in line


def test_a_row_of_memory_has_its_unit_and_no_spread() -> None:
    line = rows_table([Row(GOALS["memory-tcp"], [310.4], [15])])[-1]
    assert "| 310 KiB | 15.0 KiB | ≤ 300 KiB | ≤ 100 KiB | **310** KiB | **missed** |" in line


def test_growth_names_the_steepest() -> None:
    flat = Series("LUNs", "TCP", "a read", "us", [1, 100, 1000], [5, 5, 5])
    steep = Series("LUNs", "iSER", "a start", "s", [1, 100, 1000], [1, 100, 10000])
    assert "The largest exponent is 0.00 (a read, TCP): nothing grows faster" in growth_table([flat], {})[0]
    lines = growth_table([flat, steep], {"LUNs": "benchmarks/growth-luns.png"})
    assert "(a start, iSER): **1 grow faster than linearly**" in lines[0]
    assert "| a read | 1 to 1,000 LUNs | 5.00 to 5.00 us | 0.00 | 5.00 to 5.00 us | 0.00 |" in lines
    assert lines[-1] == "![Cost against the number of LUNs](benchmarks/growth-luns.png)"


def test_fairness_shows_what_is_judged() -> None:
    fast, slow = Histogram.of([100_000] * 100), Histogram.of([11_000_000] * 100)
    lines = fairness_table(
        [Meeting("TCP", "iSER", fast, slow, [5e8]), Meeting("TCP", "TCP", fast, fast, [5e8])], "x.png"
    )
    assert "| TCP | iSER | 0.10, 0.10 ms |" in lines[2]
    assert lines[2].endswith("| 500 MB/s | **missed** |")
    assert lines[3].endswith("| 500 MB/s | fair |")


def test_a_result_says_what_it_was_measured_on() -> None:
    sentence = describe({**describe_environment("loopback"), "tgt": "1:1.0.85"})[0]
    assert "Python" in sentence
    assert sentence.endswith("; tgt 1:1.0.85.")
