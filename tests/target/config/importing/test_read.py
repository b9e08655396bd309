"""Tests of target.config.importing: the kinds are told apart, and what is neither gets one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import UsageError
from target.config.importing import import_file
from target.config.importing import read as read_module
from target.config.importing.lio import import_lio
from target.config.importing.tgt import import_tgt
from tests.target.config.importing.files import LIO, TGT, parsed

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["iscsi", "fileio", "iqn.x"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["targets", "tpgs", "luns", "index", "storage_objects", "plugin", "name", "storage_object",
                         "node_acls", "attributes", "portals", "wwn", "size", "block_size", "tag", "parameters"]),
        inner, max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(json.dumps(LIO, indent=2))
    assert len(parsed(import_file(file)).target) == 2
    file.write_text(TGT)
    assert len(parsed(import_file(file)).target) == 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "has no target"),
        (b"{", "line 1: not JSON"),
        (b"[]", "not a saveconfig.json"),
        (b"{}", "has no target"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"<target x>", "is not closed"),
        (b"[" * 100000, "nested too deep"),
        (json.dumps({"targets": LIO["targets"][2:]}).encode(), "its fabric is vhost"),
    ],
)
def test_what_is_neither_gets_a_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=words) as caught:
        import_file(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        import_file(tmp_path / "none")
    monkeypatch.setattr(read_module, "MAX_FILE", 10)
    (tmp_path / "long").write_text(TGT)
    with pytest.raises(UsageError, match="longer than 10 bytes"):
        import_file(tmp_path / "long")


@given(st.dictionaries(st.sampled_from(["targets", "storage_objects", "fabric_modules"]), _values))
@settings(max_examples=100, deadline=None)
def test_no_shape_of_json_is_a_traceback(data: dict[str, object]) -> None:
    import_lio(data)


@given(st.lists(st.sampled_from([*TGT.splitlines(), "lun 9x", "<backing-store>", "initiator-name", "="]), max_size=30))
@settings(max_examples=100, deadline=None)
def test_no_lines_are_a_traceback(lines: list[str]) -> None:
    try:
        import_tgt("\n".join(lines))
    except UsageError:
        return
