from __future__ import annotations

import pytest

from initiator.bench.cases import CORE, cases_of
from initiator.bench.costmodel import TERMS, fit
from tests.initiator.bench.results import measurement


def test_constants_that_made_the_times_are_found_again() -> None:
    found = []
    for number, case in enumerate(cases_of(CORE, embedded=True)):
        entries, work, copied = number * 7 % 130, 1 + number % 3, case.size if "bounce" in case.strategy else 0
        seconds = 50e-6 + 3e-6 * work + 200e-9 * entries + 0.1e-9 * copied + 0.4e-9 * case.size
        each = measurement(
            case,
            case.size / seconds,
            work_requests=work,
            list_entries=entries,
            bytes_copied=copied,
            target_operations=0,
        )
        each.list["elements"] = 0
        found.append(each)
    model = fit(found, write=True)
    assert model is not None
    assert model.median_error < 0.02
    assert model.constants["t_post"] == pytest.approx(3e-6, rel=0.2)
    assert model.constants["t_entry"] == pytest.approx(200e-9, rel=0.1)
    assert model.constants["wire"] == pytest.approx(0.4e-9, rel=0.1)
    assert set(model.constants) == set(TERMS)
    assert min(model.constants.values()) >= 0
    assert set(model.by_strategy) >= {"indirect", "bounce", "split"}


def test_too_few_cases_have_no_model() -> None:
    assert fit([measurement(case) for case in cases_of(CORE, embedded=True)[:5]], write=False) is None
