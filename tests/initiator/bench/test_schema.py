"""What ``docs/benchmarks/schema.md`` says against what the commands really write, both ways."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from initiator.cli import app

TEXT = Path("docs/benchmarks/schema.md").read_text()
OBJECT, CASE, OTHERS = TEXT.partition("A measurement:")[0], TEXT.partition("A measurement:")[2], TEXT
FREE = {"fallbacks", "high_water", "latency"}  # what is in them depends on the run
#: Types of the fields of a measurement, and of those within them.
TYPES: dict[str, tuple[type, ...]] = {
    "case.strategy": (str,), "case.shape": (str,), "case.size": (int,), "case.write": (bool,), "case.depth": (int,),
    "case.invalidate": (str,), "case.pool": (float, int), "slices": (list,), "latency": (dict,), "counts": (dict,),
    "fallbacks": (dict,), "list": (dict,), "high_water": (dict,), "verified": (int,), "digest": (str,),
}  # fmt: skip


def rows(text: str) -> dict[str, str]:
    """The first and the last column of the first table."""
    found: dict[str, str] = {}
    for line in text.split("\n\n## ", maxsplit=1)[0].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name.removesuffix("[]")] = cells[-1]
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A real result of a run of two processes, with every kind of case in it."""
    path = tmp_path_factory.mktemp("schema") / "a.json"
    flags = ("--shapes", "S0,S4", "--sizes", "4K", "--depths", "2", "--seconds", "0.01", "--repeats", "1")
    strategies = ("--strategies", "frwr,indirect,bounce,immediate,auto,multi_mr,raw_tcp")
    done = CliRunner().invoke(app, ["bench", "unaligned", "--embedded", *flags, *strategies, "--output", str(path)])
    assert done.exit_code == 0, done.stderr
    data = json.loads(path.read_text())
    assert isinstance(data, dict)
    return data


def test_the_object_has_the_fields_of_the_first_table(written: dict[str, Any]) -> None:
    assert set(written) == set(rows(OBJECT))
    about = rows(OBJECT)
    for name in ("environment", "settings"):
        for field in written[name]:
            assert f"`{field}`" in about[name], f"{name}.{field} is not documented"
    assert (written["schema"], written["version"], written["kind"]) == ("iser-bench", 1, "unaligned")


def test_each_measurement_has_the_fields_of_the_second_table_and_no_others(written: dict[str, Any]) -> None:
    about = rows(CASE)
    assert set(about) == set(TYPES)
    for each in written["measurements"]:
        flat = {f"case.{name}": value for name, value in each.pop("case").items()} | each
        assert set(flat) == set(about)
        for name, value in flat.items():
            assert isinstance(value, TYPES[name]), f"{name}: {value!r}"
            if isinstance(value, dict) and name not in FREE:
                assert all(f"`{field}`" in about[name] for field in value), f"{name}: {set(value)}"
        for piece in flat["slices"]:
            assert set(piece) == {"seconds", "ios", "initiator_cpu", "target_cpu"}
            assert all(f"`{field}`" in about["slices"] for field in piece)
        assert all(bucket.isdigit() and count > 0 for bucket, count in flat["latency"].items())


def test_other_commands_write_what_the_text_names(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    done = CliRunner().invoke(app, ["bench", "mr", "--seconds", "0.001", "--no-crossover", "--output", str(path)])
    assert done.exit_code == 0, done.stderr
    data = json.loads(path.read_text())
    for name in (*data, *data["rows"][0]):
        assert f'"{name}"' in OTHERS, name
