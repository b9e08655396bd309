"""Login statuses have words."""

from __future__ import annotations

import pytest

from iser.login.status import LoginStatus, describe_status, login_error


@pytest.mark.parametrize("status", [status for status in LoginStatus if status])
def test_every_status_is_described(status: LoginStatus) -> None:
    assert "class" not in describe_status(status >> 8, status & 0xFF)


def test_an_unknown_status_is_described_by_its_class() -> None:
    assert "class 2" in describe_status(2, 0xEE)


def test_errors_carry_class_and_detail() -> None:
    error = login_error(LoginStatus.NOT_FOUND, "no")
    assert (error.status_class, error.status_detail) == (2, 3)
