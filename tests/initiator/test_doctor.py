"""What ``iser doctor`` finds."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from initiator import doctor
from initiator.doctor import examine
from iser.errors import ResourceError
from iser.rdma.verbs import opened as opened_module
from tests.rdma.verbs.fakes import FakeContext, FakePyverbs


def missing() -> None:
    raise ResourceError("provider verbs needs pyverbs; install it")


def names(value: list[str]) -> object:
    return lambda: value


async def test_without_devices_nothing_is_wrong_whatever_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "device_names", names([]))
    monkeypatch.setattr(doctor, "load_pyverbs", missing)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8 << 20, 8 << 20))
    lines, healthy = await examine("127.0.0.1")
    found = dict(lines)
    assert healthy
    assert found["devices"] == "none; provider softiwarp needs none"
    assert found["pyverbs"] == "missing"
    assert found["note"] == "provider verbs needs pyverbs; install it"
    assert "8192 KiB, which is low; raise it" in found["memory to pin"]
    assert found["to reach 127.0.0.1"] == "provider softiwarp"


@pytest.fixture
def rxe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One device with one port."""
    port = tmp_path / "rxe0" / "ports" / "1"
    (port / "gid_attrs" / "ndevs").mkdir(parents=True)
    (port / "state").write_text("4: ACTIVE\n")
    (port / "gid_attrs" / "ndevs" / "0").write_text("eth7\n")
    (tmp_path / "rxe0" / "node_type").write_text("1: CA\n")
    monkeypatch.setattr(doctor, "SYSFS", str(tmp_path))
    monkeypatch.setattr(opened_module, "SYSFS", str(tmp_path))
    monkeypatch.setattr(opened_module, "load_pyverbs", FakePyverbs)
    monkeypatch.setattr(doctor, "load_pyverbs", FakePyverbs)
    monkeypatch.setattr(doctor, "device_names", names(["rxe0"]))
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    return tmp_path


@pytest.mark.usefixtures("rxe")
async def test_a_device_is_shown_with_its_limits_and_what_its_regions_can() -> None:
    found = dict((await examine()).lines)
    assert found["device rxe0"] == "InfiniBand or RoCE, port 1 active on eth7"
    assert "4 pieces a request, 1 a read, reads served 16, outstanding 16" in found["  limits"]
    assert "other lists are copied; invalidated by the peer: no; can invalidate the peer's: yes" in found["  regions"]


@pytest.mark.usefixtures("rxe")
async def test_a_device_that_may_not_be_opened_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    lines, healthy = await examine()
    assert not healthy
    assert lines[-1][0] == "problem"
    assert "rdma_cm cannot be opened; load rdma_ucm and ib_uverbs, check its permissions" in lines[-1][1]


@pytest.mark.usefixtures("rxe")
async def test_a_device_whose_driver_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FakeContext) -> None:
        raise FakePyverbs.RdmaError("Failed to query device", 5)

    monkeypatch.setattr(FakeContext, "query_device", fail)
    lines, healthy = await examine()
    assert not healthy
    assert "opening RDMA device rxe0 failed" in lines[-1][1]
