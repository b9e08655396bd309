from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from initiator.conformance import Case, Outcome, Request, Site, Verdict, carry_out
from iser.login import Negotiation
from tests.initiator.test_cli import ServerThread, invoke, one_line
from tests.target.peer import TARGET, config, disk


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


def test_a_target_that_wants_a_password_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALICE", "alice's long secret")
    acl = ({"initiator": "*", "chap": ["alice"]},)
    guarded = config(chap={"alice": {"secret_env": "ALICE"}}, target=tuple(each | {"acl": acl} for each in disk()))
    with ServerThread(guarded) as server:
        result = invoke(
            "conformance", f"iser://127.0.0.1:{server.port}/{TARGET}/0", "--json", str(tmp_path / "out.json")
        )
    assert result.exit_code == 2
    assert "wants a password, and the suite logs in without a password" in one_line(result.stderr)
    assert not list(tmp_path.iterdir())


async def test_an_interrupted_run_says_what_it_found(url: str, tmp_path: Path) -> None:
    found, suite = tmp_path / "out.json", tmp_path / "out.xml"
    begun = asyncio.Event()

    async def hangs(site: Site) -> None:
        begun.set()
        await asyncio.sleep(60)

    async def run_two(cases: list[Case], *args: Any, **how: Any) -> AsyncIterator[Outcome]:
        yield Outcome(cases[0], Verdict.FAIL, "it is bad")
        await hangs(args[0])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("initiator.conformance.command.run_cases", run_two)
        work = asyncio.ensure_future(carry_out(Request(url, ["flow"], json=found, junit=suite)))
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    cases = json.loads(found.read_text())["cases"]
    assert (cases[0]["verdict"], cases[0]["why"]) == ("fail", "it is bad")
    assert {(case["verdict"], case["why"]) for case in cases[1:]} == {("skip", "the run was interrupted")}
    assert f'skipped="{len(cases) - 1}"' in suite.read_text()


def test_a_target_that_is_not_there_is_one_sentence_and_exit_code_1() -> None:
    result = invoke("conformance", "iser://127.0.0.1:1/iqn.2026-11.a:b/0")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in one_line(result.stderr)
