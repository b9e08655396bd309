from __future__ import annotations

import sys
from pathlib import Path

import pytest

from initiator.bench.plots import PLOTS
from initiator.bench.report import write_report
from initiator.bench.result import Result
from iser.errors import UsageError
from tests.initiator.bench.results import made_up


def test_a_report_with_its_pictures(tmp_path: Path) -> None:
    write_report(made_up(), tmp_path)
    text, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    for name in PLOTS:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({name}.svg)" in text
    assert page.count("data:image/svg+xml;base64,") == len(PLOTS)
    # Nothing is fetched from anywhere.
    assert "http" not in page.replace("http-equiv", "")
    assert "What they cannot say" in text
    assert "Cost model, reads" in text
    assert "| 512 KiB read, depth 8: indirect on S8 / frwr on S0 |" in text
    assert page.count("<tr>") > len(made_up().measurements)


def test_a_result_of_one_case_has_a_report_too(tmp_path: Path) -> None:
    result = made_up()
    result.measurements = result.measurements[:1]
    write_report(result, tmp_path)
    assert (tmp_path / "bandwidth.svg").exists()
    assert "Cost model" not in (tmp_path / "report.md").read_text()


def test_no_measurements(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no measurements"):
        write_report(Result("unaligned", {}, {}), tmp_path)


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "initiator.bench.plots", None)
    monkeypatch.delattr("initiator.bench.plots", raising=False)
    with pytest.raises(UsageError, match=r"iser\[bench\]"):
        write_report(made_up(), tmp_path)
