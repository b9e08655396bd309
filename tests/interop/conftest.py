"""The lab, booted once for a run, and what the rows share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.peers.lio import Lio
from tests.interop.peers.tgt import Tgt
from tests.interop.recorder import Notes, Recorder
from tests.lab import LabUnavailable, Machine, prepare

pytest.register_assert_rewrite("tests.interop.initiator_row", "tests.interop.target_row")


def pytest_configure(config: pytest.Config) -> None:
    """Rows may be run by themselves, too: ``pytest tests/interop/rows/initiator_lio.py``."""
    config.addinivalue_line("markers", "feature(which): the feature that a test of a row is about")
    config.addinivalue_line("markers", "peer_fault(peer, what): shows a fault of a peer that we work round")
    if not any(isinstance(plugin, Recorder) for plugin in config.pluginmanager.get_plugins()):
        config.pluginmanager.register(Recorder())


@pytest.fixture(scope="session")
def lab(worker_id: str) -> Iterator[Machine]:
    """The machine, one for each worker of pytest-xdist; power is off after the run, however it ends."""
    try:
        build = prepare()
    except LabUnavailable as why:
        pytest.skip(f"no lab: {why}")
    with Machine.boot(build, worker_id) as machine:
        yield machine


@pytest.fixture(scope="session")
def lio(lab: Machine) -> Lio:
    """LIO, serving."""
    peer = Lio(lab)
    peer.start()
    return peer


@pytest.fixture(scope="session")
def tgt(lab: Machine) -> Tgt:
    """tgt, serving."""
    peer = Tgt(lab)
    peer.start()
    return peer


@pytest.fixture
def notes() -> Notes:
    """What to say beside the test's cell."""
    return Notes()
