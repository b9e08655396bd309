"""Tests of tests.benchmark.peers: turns that alternate, and what a session holds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.benchmark.peers import Sample, session_kib, take_turns
from tests.benchmark.targets import our_target
from tests.benchmark.worker import our_initiator

MOST = 160.0  # KiB of an idle session; with buffers that are filled with zeros it was 330


async def test_the_order_alternates_and_every_round_has_every_side() -> None:
    order: list[str] = []

    async def side(name: str) -> Sample:
        order.append(name)
        return Sample(len(order))

    samples = await take_turns({name: partial(side, name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"
    assert [each.iops for each in samples["a"]] == [1, 6, 7]


@pytest.mark.parametrize("transport", ["iscsi", "iser"])
async def test_an_idle_session_holds_little_memory(tmp_path: Path, transport: str) -> None:
    async with our_target(tmp_path) as served, our_initiator(tmp_path) as worker:
        assert 0 < await session_kib(worker, served, transport, 0, 30) < MOST
