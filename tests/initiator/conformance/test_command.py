from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from iser.login import Negotiation
from tests.initiator.test_cli import ServerThread, invoke, one_line
from tests.target.peer import TARGET


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ServerThread() as server:
        yield f"iser://127.0.0.1:{server.port}/{TARGET}/0"


def test_a_good_target_is_exit_code_0_and_writes_its_reports(url: str, tmp_path: Path) -> None:
    found, suite = tmp_path / "out.json", tmp_path / "out.xml"
    result = invoke("conformance", url, "--only", "residual", "--json", str(found), "--junit", str(suite))
    assert result.exit_code == 0, result.output
    assert "residual.exact" in result.stdout
    assert result.stdout.splitlines()[-1] == f"{url}: 10 pass, 0 warn, 0 fail, 2 skip"
    assert len(json.loads(found.read_text())["cases"]) == 12
    assert suite.read_text().startswith("<?xml")


def test_a_bad_target_is_exit_code_1(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Negotiation._take
    monkeypatch.setattr(
        Negotiation, "_take", lambda self, name, *args: None if name.startswith("X-") else take(self, name, *args)
    )
    result = invoke("conformance", url, "--only", "negotiation.unknown-key")
    assert result.exit_code == 1, result.output
    assert "0 pass, 0 warn, 1 fail" in result.stdout


def test_list_needs_no_target() -> None:
    result = invoke("conformance", "--list", "--only", "flow", "--skip", "flow.p*")
    assert result.exit_code == 0, result.output
    assert "flow.gap" in result.stdout
    assert "flow.ping" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give the URL"),
        (("iser://h/iqn.2026-11.a:b/0", "--only", "nothing"), "matches no case"),
        (("iser://h/iqn.2026-11.a:b/0", "--json", "/nowhere/file"), "/nowhere/file cannot be written"),
        (("iscsi://h/iqn.2026-11.a:b/0",), "iser://"),
        (("nonsense",), "URL"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    result = invoke("conformance", *arguments)
    assert result.exit_code == 2, result.output
    assert words in one_line(result.stderr)


def test_a_target_that_is_not_there_is_one_sentence_and_exit_code_1() -> None:
    result = invoke("conformance", "iser://127.0.0.1:1/iqn.2026-11.a:b/0")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in one_line(result.stderr)
