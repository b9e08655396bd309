"""Tests of tests.conformance.runner: real targets, and a stand-in for the tool that ends as a test's name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.runner import run_all
from tests.conformance.site import Site
from tests.conformance.test_tool import BAD, GOOD, script
from tests.conformance.verdict import Outcome, Place, Verdict


async def test_every_place_is_run_and_told_and_a_hang_ends_only_its_own_test(tmp_path: Path) -> None:
    (tmp_path / "good").write_text(GOOD)
    (tmp_path / "bad").write_text(BAD)
    command = script(
        tmp_path,
        'case "$*" in',
        "*Suite.Hang*) exec sleep 60;;",
        f"*Suite.Bad*) cat {tmp_path}/bad;;",
        f'*iscsi://127.0.0.1:*/2*|*Suite.Good*) cat {tmp_path}/good; echo "$@" >> {tmp_path}/asked;;',
        "esac",
    )
    chosen = [Place("fixed", f"Suite.{name}") for name in ("Bad", "Hang", "Good")] + [Place("two paths", "Suite.Good")]
    told: list[Place] = []

    def hear(place: Place, _: Outcome) -> None:
        told.append(place)

    found = await run_all(chosen, tmp_path, workers=1, command=command, timeout=0.5, told=hear)
    verdicts = [found[place].verdict for place in chosen]
    assert verdicts == [Verdict.FAIL, Verdict.HANG, Verdict.PASS, Verdict.PASS]
    assert sorted(told) == sorted(chosen)
    one, two = (line.split()[4:] for line in (tmp_path / "asked").read_text().splitlines())
    assert [url.rpartition("/")[2] for url in one] == ["0"]
    assert [url.rpartition("/")[2] for url in two] == ["3", "3"]
    assert len(set(two)) == 2  # two portals


async def test_a_site_can_be_started_again_and_says_why_it_does_not_start(tmp_path: Path) -> None:
    site = Site(tmp_path, "target0")
    for _ in range(2):
        await site.start()
        assert site.alive
        assert [url.rpartition("/")[2] for url in site.urls("removable")] == ["1"]
        await site.stop()
        assert not site.alive
    (tmp_path / "target0.toml").write_text("[portal.main]\n")
    with pytest.raises(RuntimeError, match=r"did not start: .*target0"):
        await site.start()
    await site.stop()
