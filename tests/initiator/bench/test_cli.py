from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from initiator.cli import app
from tests.initiator.bench.results import made_up


def iser(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_small_cut_from_the_command_line(tmp_path: Path) -> None:
    flags = ("--shapes", "S8", "--sizes", "4K", "--depths", "2", "--strategies", "indirect,bounce")
    done = iser("unaligned", "--embedded", *flags, "--seconds", "0.01", "--repeats", "2", "--report", ".")
    assert done.exit_code == 0, done.stderr
    assert "S8, 4 KiB write, depth 2" in done.stdout
    assert done.stderr == ""  # no progress where there is no terminal
    assert sorted(path.name for path in tmp_path.glob("un*")) == ["unaligned.csv", "unaligned.json"]
    assert (tmp_path / "report.html").exists()
    again = iser("compare", "unaligned.json", "unaligned.json")
    assert (again.exit_code, "0 worse" in again.stdout) == (0, True)


def test_compare_exits_with_three_when_the_second_is_worse(tmp_path: Path) -> None:
    for name, speed in (("a.json", 1.0), ("b.json", 0.5)):
        result = made_up(speed)
        result.measurements = result.measurements[:9]
        result.save(tmp_path / name)
    assert iser("compare", "a.json", "b.json").exit_code == 3
    assert iser("compare", "b.json", "a.json").exit_code == 0


def test_mr_writes_what_it_measured(tmp_path: Path) -> None:
    done = iser("mr", "--seconds", "0.001", "--no-crossover", "--output", "mr.json")
    assert done.exit_code == 0, done.stderr
    assert "goal: at most 0.50" in done.stdout
    assert [row["elements"] for row in json.loads((tmp_path / "mr.json").read_text())["rows"]][:3] == [1, 2, 4]


def test_wrong_use_is_one_line_and_exit_code_two() -> None:
    for arguments, words in (
        (("unaligned",), "either the URL of a LUN or --embedded"),
        (("unaligned", "--embedded", "--quick", "--full"), "contradict"),
        (("unaligned", "--embedded", "--shapes", "S99"), "shape 'S99' does not exist"),
        (("unaligned", "--embedded", "--shapes", "S8", "--strategies", "frwr"), "no strategy"),
        (("io", "iser://127.0.0.1/iqn.2026-11.a:b/0", "--engine", "x"), "engine 'x' does not exist"),
        (("compare", "none.json", "none.json"), "cannot be read"),
        (("report", "none.json", "."), "cannot be read"),
    ):
        done = iser(*arguments)
        assert done.exit_code == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
