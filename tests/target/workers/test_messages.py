"""Tests of target.workers.messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import ConnectionLost, IserError, UsageError
from iser.logs import LogFormat
from target.workers.assignment import Assignment
from target.workers.messages import Answer, Logging, Request, Start
from tests.target.workers.site import ONE, TWO, settings


def test_a_request_takes_a_configuration_as_it_is() -> None:
    assignment = Assignment(settings(), 2, {ONE: 1, TWO: 2}, {"tcp": (1, 2)})
    request = Request(3, "start", Start(assignment, ("tcp",), Logging({"": "debug"}, LogFormat.JSON)))
    assert Request.decode(request.encode()) == request


def test_an_answer_is_a_result_or_an_error_in_words() -> None:
    assert Answer.decode(Answer(7, {"a": [1, None]}).encode()) == Answer(7, {"a": [1, None]})
    assert Answer(7, "fine").failure() is None
    for usage, kind in ((True, UsageError), (False, IserError)):
        failure = Answer.decode(Answer(7, "words", error=True, usage=usage).encode()).failure()
        assert type(failure) is kind
        assert str(failure) == "words"


@given(st.binary(max_size=40) | st.sampled_from([b"[1]", b"{}", b"3", b"null", b"[[1],2,3,4]", b"[" * 99_999]))
def test_what_is_no_answer_is_told_as_that(data: bytes) -> None:
    with pytest.raises(ConnectionLost):
        Answer.decode(data)


def test_levels_are_kept_by_name_and_the_last_counts() -> None:
    logging = Logging.of(["iser.sg=debug", "warning"], LogFormat.TEXT)
    assert logging.specs == ["warning", "iser.sg=debug"]
    assert logging.changed(["iser.sg=error", "iser.net=info"]).specs == ["warning", "iser.net=info", "iser.sg=error"]
