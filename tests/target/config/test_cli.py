"""Tests of target.config.cli, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from target.cli import app
from target.config import load
from target.config.schema import schema
from tests.target.config.importing.files import LIO, TGT

OLD = """
[portal.main]
listen = "iser://127.0.0.1:3260"
[[target]]
name = "iqn.2026-11.demo:disk"
[[target.lun]]
id = 0
backend = "memory"
size = "1M"
"""


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def test_plan_has_a_line_for_each_difference(tmp_path: Path) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(OLD)
    new.write_text(OLD.replace("3260", "3261") + "[[target.acl]]\ninitiator = 'iqn.x*'\n")
    result = run("plan", new, old)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "change portal main: listen iser://127.0.0.1:3260 -> iser://127.0.0.1:3261; "
        "touches sessions through main: ended",
        "change target iqn.2026-11.demo:disk: open to everybody -> only whom a rule lets in; touches sessions of "
        "iqn.2026-11.demo:disk that the rules let in no more: ended, and that see other LUNs: told",
        "add rule 0 of iqn.2026-11.demo:disk: iqn.x* allowed; touches sessions of "
        "iqn.2026-11.demo:disk that the rules let in no more: ended, and that see other LUNs: told",
    ]
    assert run("plan", old, old).stdout == "no difference\n"


def test_plan_of_a_bad_file_says_what_check_says(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(OLD)
    bad.write_text(OLD.replace("id = 0", "id = -1"))
    result = run("plan", bad, good)
    assert result.stdout == ""
    assert f"{bad}:7: target[0].lun[0].id" in str(result.exception)


def test_schema_is_json() -> None:
    assert json.loads(run("schema").stdout) == schema()


@pytest.mark.parametrize("kind", ["lio", "tgt"])
def test_import_writes_a_configuration_and_lists_the_rest(tmp_path: Path, kind: str) -> None:
    there = tmp_path / "disk"
    there.write_bytes(bytes(4096))
    theirs, ours = tmp_path / "theirs", tmp_path / "ours.toml"
    text = json.dumps(LIO) if kind == "lio" else TGT.replace("backing-store pool/image", "backing-store pool/i")
    theirs.write_text(
        re.sub(r"/(srv|dev/vg0|dev/sdd)[\w/.]*", lambda found: str(there) + found[0].replace("/", "-"), text)
    )
    for found in re.findall(rf"{there}[\w.-]+", theirs.read_text()):
        Path(found).touch()
        os.truncate(found, 4096 if kind == "tgt" else 1 << 30)
    result = run("import", theirs)
    assert result.exit_code == 0, result.output
    assert "has no counterpart" in result.stderr
    ours.write_text(result.stdout)
    assert {target.name for target in load(ours).target} > {
        "iqn.2003-01.org.linux-iscsi.host.x8664:sn.abc" if kind == "lio" else "iqn.2008-09.com.example:server.open"
    }


def test_import_of_nothing_is_one_sentence(tmp_path: Path) -> None:
    result = run("import", tmp_path / "none")
    assert str(result.exception) == f"{tmp_path}/none: cannot be read: No such file or directory"
