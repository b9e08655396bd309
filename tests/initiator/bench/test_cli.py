from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from initiator.bench.result import Result
from initiator.bench.workload import Workload
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


def test_a_run_that_fails_says_how_it_goes_on_and_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--shapes", "S8", "--sizes", "4K", "--depths", "1", "--strategies", "auto,bounce", "--seconds", "0.01")
    verify, calls = Workload.check_stored, []

    def fail_later(self: Workload, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 2:  # the reads are complete by then
            raise KeyboardInterrupt
        verify(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Workload, "check_stored", fail_later)
        ended = iser("unaligned", "--embedded", *flags)
    assert ended.exit_code == 130
    assert "2 of 4 cases are in unaligned.journal; the same command goes on from there" in ended.stderr
    other = iser("unaligned", "--embedded", *flags, "--seed", "2")
    assert (other.exit_code, "or --restart" in other.stderr) == (2, True)
    done = iser("unaligned", "--embedded", *flags)
    assert (done.exit_code, done.stderr) == (0, "going on with unaligned.journal: 2 of 4 cases are there\n")
    assert len(Result.load(tmp_path / "unaligned.json").measurements) == 4


def test_flags_before_the_command_hold_for_a_job_and_make_no_sense_for_a_comparison() -> None:
    runner = CliRunner()
    refused = runner.invoke(app, ["--strategy", "bounce", "bench", "unaligned", "--embedded"])
    assert (refused.exit_code, "choose them by --strategies" in refused.stderr) == (2, True)
    url = "iser://127.0.0.1/iqn.2026-11.a:b/0"
    clash = runner.invoke(app, ["--no-bounce", "bench", "io", url, "--strategy", "bounce"])
    assert (clash.exit_code, "no_bounce forbids it" in clash.stderr) == (2, True)


def test_compare_exits_with_three_when_the_second_is_worse(tmp_path: Path) -> None:
    for name, speed in (("a.json", 1.0), ("b.json", 0.5)):
        result = made_up(speed)
        result.measurements = result.measurements[:9]
        result.save(tmp_path / name)
    assert iser("compare", "a.json", "b.json").exit_code == 3
    better = iser("compare", "b.json", "a.json")
    assert (better.exit_code, better.stderr) == (0, "")
    result.settings["seed"] = 7
    result.save(tmp_path / "c.json")
    assert "seed: None and 7" in iser("compare", "a.json", "c.json").stderr
    (tmp_path / "mr.json").write_text('{"schema": "iser-bench-mr", "version": 1}')
    other = iser("compare", "a.json", "mr.json")
    assert (other.exit_code, "mr.json: is iser-bench-mr version 1" in other.stderr) == (2, True)


def test_mr_writes_what_it_measured(tmp_path: Path) -> None:
    done = iser("mr", "--seconds", "0.001", "--no-crossover", "--output", "mr.json")
    assert done.exit_code == 0, done.stderr
    assert "goal: at most 0.50" in done.stdout
    assert [row["elements"] for row in json.loads((tmp_path / "mr.json").read_text())["rows"]][:3] == [1, 2, 4]


def test_wrong_use_is_one_line_and_exit_code_two(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments, words in (
        (("unaligned",), "either the URL of a LUN or --embedded"),
        (("unaligned", "--embedded", "--quick", "--full"), "contradict"),
        (("unaligned", "iscsi://127.0.0.1/iqn.2026-11.a:b/0"), "plain iSCSI registers no memory"),
        (("unaligned", "iser://127.0.0.1/iqn.2026-11.a:b/0", "--strategies", "multi_mr"), "multi_mr and raw_tcp need"),
        (("unaligned", "--embedded", "--shapes", "E3"), "E2, E4, E5"),
        (("unaligned", "--embedded", "--output", "."), "is a folder"),
        (("unaligned", "--embedded", "--output", "file/a.json"), "cannot be written: "),
        (("unaligned", "--embedded", "--report", "file"), "cannot be made a folder"),
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
