"""Completions that no device tells of."""

from __future__ import annotations

from iser.rdma.api import (
    WcOpcode,
    WcStatus,
    WorkCompletion,
)
from iser.rdma.verbs.late import LateCompletions
from tests.rdma.verbs.conftest import End, turns

TOLD = WorkCompletion("x", WcStatus.SUCCESS, WcOpcode.REG_MR, 0)


async def test_what_no_request_carries_out_is_told_in_the_next_turn(end: End) -> None:
    late = LateCompletions(end.cq)
    late.add(TOLD)
    assert not end.log, "never from inside a call"
    await turns(1)
    assert end.log == [TOLD]


async def test_what_comes_during_a_flush_is_left_to_who_ends_it(end: End) -> None:
    late = LateCompletions(end.cq)
    late.add(TOLD)
    late.held = True
    late.add(TOLD)
    await turns(1)
    assert not end.log
    assert late.take() == [TOLD, TOLD]
    late.add(TOLD)
    await turns(1)
    assert end.log == [TOLD]
