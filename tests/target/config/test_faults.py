"""Words for faults."""

from __future__ import annotations

from pathlib import Path

from pydantic_core import ErrorDetails

from target.config.faults import combined_faults, dotted, model_fault


def test_paths_as_people_write_them() -> None:
    assert dotted(("target", 0, "lun", 12, "size")) == "target[0].lun[12].size"
    assert dotted(("limits",)) == "limits"


def test_a_pydantic_error_that_we_have_no_words_for_keeps_its_own() -> None:
    error: ErrorDetails = {"type": "finite_number", "loc": ("a", 1), "msg": "Input should be finite", "input": 1}
    assert model_fault(error, ()) == (("a", 1), "Input should be finite")


def test_near_keys_are_proposed_and_far_ones_listed() -> None:
    error: ErrorDetails = {"type": "extra_forbidden", "loc": ("backnd",), "msg": "", "input": 1}
    assert model_fault(error, ("backend", "size")).what == "is not a known key; did you mean 'backend'?"
    error["loc"] = ("zzz",)
    assert model_fault(error, ("backend", "size")).what == "is not a known key; known are backend, size"


def test_tables_of_wrong_types_are_passed_over(tmp_path: Path) -> None:
    wrongs: list[object] = [1, "x", [1], [[]], {"a": 1}, [{"lun": 3}], [{"lun": [3]}]]
    wrongs.append([{"lun": [{"size": {}, "block_size": 0}]}])
    for wrong in wrongs:
        raw = {"portal": wrong, "target": wrong, "limits": wrong}
        assert list(combined_faults(raw, tmp_path)) == []
