from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initiator.bench.cases import Case
from initiator.bench.result import Journal, Measurement, Ratio, Result
from iser.errors import UsageError
from tests.initiator.bench.results import made_up, measurement

CASE = Case("indirect", "S8", 65536, True, 8, "remote")
OTHER = replace(CASE, depth=1)


def test_medians_spread_and_cost() -> None:
    each = measurement(CASE, 1e9)
    assert each.rate == pytest.approx(1e9, rel=0.011)
    assert each.spread == pytest.approx(0.02, rel=0.1)
    assert each.iops * each.seconds_each == pytest.approx(1)
    assert (each.cpu("initiator"), each.cpu("target")) == (10**4, 2 * 10**4)


def test_a_ratio_is_of_pairs_where_two_took_turns() -> None:
    one, two = measurement(CASE, 1e9), measurement(replace(CASE, strategy="bounce"), 1e9)
    one.slices = [  # the machine was busy with something else
        replace(each, seconds=each.seconds * (1 + number * 10 % 7)) for number, each in enumerate(one.slices)
    ]
    two.slices = [replace(each, seconds=each.seconds * 1.5) for each in one.slices]
    assert one.times(two) == pytest.approx((1.5, 1.5, 1.5))
    contiguous = measurement(replace(CASE, shape="S0"), 1e9)
    contiguous.slices = one.slices
    assert contiguous.times(one) == (1, 1, 1)  # these two take turns, too
    alone = measurement(replace(CASE, shape="S4"), 2e9).times(measurement(CASE, 1e9))
    assert alone.value == pytest.approx(2)
    assert alone.low < 1.98
    assert alone.high > 2.02


def test_the_interval_of_a_median_leaves_as_many_out_as_coins_would() -> None:
    assert Ratio.of([3, 1, 2]) == (2, 1, 3)
    assert Ratio.of(range(1, 7)) == (3.5, 1, 6)
    assert Ratio.of(range(1, 16)) == (8, 4, 12)  # as tables of the sign test have it
    assert Ratio.of(range(1, 26)) == (13, 8, 18)
    assert str(Ratio(1.234, 1, 2)) == "1.23 (1.00 to 2.00)"


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_the_interval_holds_the_median(ratios: list[float]) -> None:
    ratio = Ratio.of(ratios)
    assert min(ratios) <= ratio.low <= ratio.value <= ratio.high <= max(ratios)


def test_a_file_says_the_same_when_it_is_read(tmp_path: Path) -> None:
    result = made_up()
    result.save(tmp_path / "deep" / "a.json")
    again = Result.load(tmp_path / "deep" / "a.json")
    assert again.to_json() == result.to_json()
    rows = list(csv.DictReader(result.to_csv().splitlines()))
    assert len(rows) == len(result.measurements)
    assert rows[0]["strategy"] == result.measurements[0].case.strategy


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "iser-bench", "version": 2}', '{"schema": "iser-bench", "version": 1, "kind": ""}'],
)
def test_files_that_are_no_result(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"a\.json"):
        Result.load(path)
    with pytest.raises(UsageError, match=r"cannot be read: No such file or directory$"):
        Result.load(tmp_path / "none.json")


def test_a_run_goes_on_from_its_journal_also_if_that_ends_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    result = Result("unaligned", {"first": True}, {"seed": 1})
    Journal(path, result).add(measurement(CASE))
    with path.open("a") as file:
        file.write('{"case": {"strat')
    later = Result("unaligned", {"first": False}, {"seed": 1})
    journal = Journal(path, later)
    assert list(journal.done) == [CASE.key]
    assert later.environment == {"first": True}
    journal.add(measurement(OTHER))
    assert list(Journal(path, later).done) == [CASE.key, OTHER.key]  # the torn line swallowed nothing
    journal.remove()
    assert not path.exists()


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    Journal(path, Result("unaligned", {}, {"seed": 1})).add(measurement(CASE))
    with pytest.raises(UsageError, match="other settings; choose another --output, or --restart"):
        Journal(path, Result("unaligned", {}, {"seed": 2}))
    first = path.read_text().splitlines()[0]
    path.write_text(first + "\n")  # of a run that ended before it had measured anything
    assert Journal(path, Result("unaligned", {}, {"seed": 2})).done == {}
    assert not path.exists()
    path.write_text("x\n")
    with pytest.raises(UsageError, match="no journal"):
        Journal(path, Result("unaligned", {}, {"seed": 1}))


def test_the_json_has_what_the_schema_says() -> None:
    data = json.loads(json.dumps(made_up().to_json()))
    text = Path("docs/benchmarks/schema.md").read_text()
    for name in (*data, *data["measurements"][0], *data["measurements"][0]["case"]):
        assert name in text, name
    assert Measurement.from_json(data["measurements"][0]).case == made_up().measurements[0].case
