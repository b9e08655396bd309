"""Tests of target.workers itself: what ``check`` says of a configuration with workers."""

from __future__ import annotations

import pytest

from iser.errors import UsageError
from iser.rdma import choose
from target.workers import describe
from tests.target.workers.site import ONE, TWO, settings, target


async def test_each_worker_has_a_line_with_its_targets() -> None:
    config = settings(target(ONE), target(TWO, worker=1), workers=3)
    assert await describe(config) == [f"worker 1: {TWO}", f"worker 2: {ONE}", "worker 3: no target"]


async def test_a_portal_of_an_rdma_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def verbs(name: str, host: str, *, passive: bool = False) -> str:
        del host
        assert passive
        return choose.VERBS if name == "auto" else name

    monkeypatch.setattr("target.workers.sockets.choose", verbs)
    with pytest.raises(UsageError, match=r"^portal rdma: an RDMA device listens in one process only; set provider"):
        await describe(settings())
    await describe(settings(rnic={"provider": "softiwarp"}))
    await describe(settings(portal={"tcp": {"listen": "iscsi://127.0.0.1:0"}}))
