"""The plugin, on a small row of tests that end in every way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.build import PROJECT

_ROW = """
import pytest
from tests.interop.known import KNOWN_FAULTS
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.recorder import Notes, NotOffered, NotShown, feature, peer_fault

KNOWN_FAULTS["peer", Feature.NOP, Fabric.IWARP] = "a known fault"
KNOWN_FAULTS["peer", Feature.LOGOUT, Fabric.ROCE] = "a fault over another fabric"

@pytest.fixture
def notes():
    return Notes()

@pytest.fixture
def broken():
    raise RuntimeError("no disk")

class TestRow:
    row = Row("initiator", "peer", Fabric.IWARP)

    @feature(Feature.LOGIN)
    def test_good(self, notes):
        notes.add("as it should be")

    @feature(Feature.CAPACITY)
    def test_bad(self):
        raise ValueError("wrong size\\nand more")

    @feature(Feature.SIZES)
    def test_setup(self, broken):
        pass

    @feature(Feature.NOP)
    def test_known(self):
        raise ValueError("as we know")

    @feature(Feature.LOGOUT)
    def test_known_elsewhere(self):
        raise ValueError("news")

    @feature(Feature.COLD_RESET)
    def test_not_offered(self):
        raise NotOffered("the peer says no")

    @peer_fault("peer", "a race")
    def test_race(self):
        raise NotShown("0 of 20")

    @peer_fault("peer", "a bug")
    def test_bug(self):
        pass
"""
_RUN = """
import json, sys, pytest
from tests.interop.recorder import Recorder
recorder = Recorder()
code = pytest.main([*sys.argv[1:], "-q", "-p", "no:cacheprovider", "-W", "ignore"], plugins=[recorder])
print()
print(json.dumps({
    "code": code,
    "cells": {feature: [cell.verdict.value, *cell.notes] for _, feature, cell in recorder.matrix},
    "faults": [[fault.what, fault.shown, fault.note] for fault in recorder.matrix.faults],
}))
"""


@pytest.mark.parametrize("options", [("-n0",), ("-n1", "-p", "tests.interop.conftest")], ids=["here", "in a worker"])
def test_each_outcome_becomes_its_cell(tmp_path: Path, options: tuple[str, ...]) -> None:
    module = tmp_path / "some_row.py"
    module.write_text(_ROW)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(module), *options], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 1
    assert found["cells"] == {
        "login": ["pass", "as it should be"],
        "capacity": ["fail", "ValueError: wrong size"],
        "512 B to 8 MiB": ["fail", "RuntimeError: no disk"],
        "NOP": ["known peer fault", "a known fault"],
        "logout": ["fail", "ValueError: news"],
        "TARGET COLD RESET": ["not offered", "the peer says no"],
    }
    assert found["faults"] == [["a race", False, "0 of 20"], ["a bug", True, ""]]
    assert "2 failed, 4 passed, 1 xfailed, 1 error" in done.stdout
