"""Every case of the table can fail: some fault of a target makes it."""

from __future__ import annotations

import pytest

from initiator.conformance import CASES, Verdict, chosen
from iser.errors import UsageError
from tests.initiator.conformance.bad import Fault
from tests.initiator.conformance.cases import (
    test_data,
    test_discovery,
    test_errors,
    test_flow,
    test_invalidation,
    test_login,
    test_negotiation,
    test_residual,
    test_shapes,
    test_tags,
    test_tmf,
)

_MODULES = (
    test_data,
    test_discovery,
    test_errors,
    test_flow,
    test_invalidation,
    test_login,
    test_negotiation,
    test_residual,
    test_shapes,
    test_tags,
    test_tmf,
)
FAULTS: tuple[Fault, ...] = tuple(fault for module in _MODULES for fault in module.FAULTS)
#: Found by tests of their own, not by a fault in a table.
ELSEWHERE = {test_data.UNSOLICITED, test_invalidation.ONLY_TAGGED}
#: The initiator's RNIC stops the target before the case can see what it did.
ONLY_THE_RNIC = {"tags.wrong-access"}
#: These only report what is offered.
REPORTS = {"negotiation.unexpected-pdus", "negotiation.max-ahs-length", "negotiation.hello-required"}


def test_each_case_has_a_fault_that_it_finds() -> None:
    found = {name for fault in FAULTS for name, verdict in fault.found.items() if verdict is not Verdict.SKIP}
    assert {case.full_name for case in CASES} - found == ELSEWHERE | ONLY_THE_RNIC | REPORTS


def test_names_are_unique_and_every_case_says_what_it_checks_and_where_it_is_written() -> None:
    assert len({case.full_name for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.checks
        assert case.section.startswith(("RFC ", "IBTA ", "SAM-", "SPC-", "SBC-")), case.full_name


def test_risky_cases_come_last() -> None:
    risky = [case.risky for case in CASES]
    assert risky == sorted(risky)


def test_chosen_by_group_and_by_pattern() -> None:
    assert {case.group for case in chosen(["flow", "data"])} == {"flow", "data"}
    assert [case.full_name for case in chosen(["flow.p*"])] == ["flow.ping"]
    assert len(chosen([], ["flow"])) == len(CASES) - len(chosen(["flow"]))
    for only, skip in ((["nothing.*"], []), ([], ["nothing"])):
        with pytest.raises(UsageError, match="matches no case"):
            chosen(only, skip)
