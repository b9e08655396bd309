"""Tests of initiator.conformance.case: how cases are named."""

from __future__ import annotations

import re

from initiator.conformance import CASES


def test_a_name_is_of_one_case_and_says_its_group() -> None:
    names = [case.full_name for case in CASES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+\.[a-z0-9-]+", name) for name in names)
    assert all(case.full_name == f"{case.group}.{case.name}" for case in CASES)


def test_a_case_says_what_it_checks_and_where_that_is_written() -> None:
    assert all(case.checks and case.section for case in CASES)
