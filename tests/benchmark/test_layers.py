"""Tests of tests.benchmark.layers: another commit beside this one, and both processes of the stack."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.benchmark import layers
from tests.benchmark.host import BenchmarkError
from tests.benchmark.layers import CASES, Profile, checkout, commit_of, measure_layers
from tests.benchmark.page import layers_tables
from tests.benchmark.sampler import LAYERS
from tests.lab.build import PROJECT


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in the place of the project, with two commits."""
    root = tmp_path / "project"
    root.mkdir()
    who = ("-c", "user.name=x", "-c", "user.email=x@x")
    for words in (("init", "-q"), (*who, "commit", "-q", "--allow-empty", "-m", "one"),
                  (*who, "commit", "-q", "--allow-empty", "-m", "two")):  # fmt: skip
        subprocess.run(["git", "-C", str(root), *words], check=True)
    monkeypatch.setattr(layers, "PROJECT", root)
    return root


def test_another_commit_is_there_for_as_long_as_it_is_used(repository: Path, tmp_path: Path) -> None:
    with checkout("HEAD~1", tmp_path) as root:
        assert root.is_dir()
        assert commit_of(root) != commit_of(repository)
    assert not root.exists()
    listed = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.splitlines()) == 1


def test_a_commit_that_is_not_there_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"git worktree: .+nowhere"), checkout("nowhere", tmp_path):
        pass


async def test_both_processes_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "CASES", CASES[:1])
    monkeypatch.setattr(layers, "commit_of", lambda root: "now")
    lines: list[str] = []
    monkeypatch.setattr(layers, "_TRANSPORTS", {"TCP": "iscsi"})
    profiles = await measure_layers(tmp_path, [PROJECT], 1.0, lines.append)
    assert [(each.transport, each.side) for each in profiles] == [("TCP", "target"), ("TCP", "initiator")]
    assert all(0 < each.total < 10_000 for each in profiles)
    assert len(lines) == 1


def test_a_table_shows_before_and_after_of_each_process() -> None:
    def profile(commit: str, us: float) -> Profile:
        return Profile(commit, "TCP", "a read", "target", dict.fromkeys(LAYERS, us))

    lines = layers_tables([profile("old", 20.0), profile("new", 10.0)])
    assert lines[1] == "| TCP: us of one transfer | a read: target |"
    assert "| datamover | 20.0 → 10.0 |" in lines
    assert lines[-1] == f"| **all** | {20 * len(LAYERS)} → {10 * len(LAYERS)} |"
