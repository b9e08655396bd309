"""Tests of tests.conformance.tool, on what iscsi-test-cu 1.19 printed and on stand-ins for it."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.tool import list_tests, read_output, run_test
from tests.conformance.verdict import Outcome, Verdict

SUMMARY = """
Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      1      1    n/a      0        0
               tests      1      {ran}      1      {failed}        0
             asserts      9      9      9      {failed}      n/a
"""
GOOD = SUMMARY.format(ran=1, failed=0)
BAD = SUMMARY.format(ran=1, failed=1)
ASSERTION = '    1. test_read.c:135  - CU_FAIL("[FAILED] it " "differs.")    Send PRIN/READ_KEYS\n'


def script(folder: Path, *lines: str) -> str:
    """A command that does ``lines``."""
    path = folder / "tool"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


def test_a_pass_is_one_test_that_ran_and_did_not_fail() -> None:
    assert read_output(GOOD, 0) == Outcome(Verdict.PASS)
    assert read_output(GOOD, 1).verdict is Verdict.FAIL
    assert read_output(SUMMARY.format(ran=0, failed=0), 0).verdict is Verdict.FAIL
    assert read_output(BAD, 0).verdict is Verdict.FAIL


def test_a_skip_says_why() -> None:
    text = f"  Test: Eject ...    [SKIPPED] Logical unit is not removable. Skipping test.\npassed\n{GOOD}"
    assert read_output(text, 0) == Outcome(Verdict.SKIP, "Logical unit is not removable. Skipping test.")


def test_a_failure_says_at_which_lines_and_outweighs_a_skip() -> None:
    text = f"[SKIPPED] one part\nFAILED\n{ASSERTION}    2. test_read.c:140  - CU_ASSERT_EQUAL(ret,0)\n{BAD}"
    outcome = read_output(text, 1)
    assert outcome.verdict is Verdict.FAIL
    assert outcome.failed_at == ("test_read.c:135", "test_read.c:140")
    first = 'test_read.c:135: CU_FAIL("[FAILED] it " "differs.")'
    assert outcome.reason == f"{first}; test_read.c:140: CU_ASSERT_EQUAL(ret,0)"


def test_no_summary_is_a_failure_with_the_last_words() -> None:
    outcome = read_output("Failed to connect\nno such target\n", 255)
    assert outcome == Outcome(Verdict.FAIL, "ended with code 255 and without a summary: no such target")
    assert "printed nothing" in read_output("", -11).reason


async def test_the_list_has_each_test_once(tmp_path: Path) -> None:
    command = script(tmp_path, "printf 'ALL\\nALL.Read10\\nALL.Read10.Simple\\nSCSI.Read10.Simple\\nALL.Read10.Eol\\n'")
    assert await list_tests(command) == ["Read10.Simple", "Read10.Eol"]


async def test_a_run_keeps_the_output_and_names_the_test_and_every_path(tmp_path: Path) -> None:
    (tmp_path / "summary").write_text(GOOD)
    command = script(tmp_path, 'echo "$@"', f"cat {tmp_path}/summary")
    log = tmp_path / "log"
    outcome = await run_test("Read10.Simple", ["iscsi://a/t/0", "iscsi://b/t/0"], log, command=command)
    assert outcome.verdict is Verdict.PASS
    assert log.read_text().splitlines()[0].endswith("--test=ALL.Read10.Simple iscsi://a/t/0 iscsi://b/t/0")


async def test_a_test_that_does_not_end_has_hung(tmp_path: Path) -> None:
    command = script(tmp_path, "exec sleep 60")
    outcome = await run_test("Read10.Simple", ["iscsi://a/t/0"], tmp_path / "log", command=command, timeout=0.1)
    assert outcome == Outcome(Verdict.HANG, "still running after 0.1 s", seconds=0.1)
