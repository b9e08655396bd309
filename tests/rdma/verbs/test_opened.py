"""What a device says it can, and its asynchronous events."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from iser.errors import ResourceError
from iser.rdma.api import DeviceCap, QpCap
from iser.rdma.verbs import opened as opened_module
from iser.rdma.verbs.constants import AsyncEvent
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.opened import MAX_MESSAGE, node_type, read_attributes
from iser.rdma.verbs.options import VerbsOptions
from tests.rdma.verbs.conftest import End, turns
from tests.rdma.verbs.fakes import FakeContext, FakePyverbs, FakeRdmaError


def test_limits_are_those_of_the_device_and_capabilities_those_of_user_memory() -> None:
    attributes = read_attributes(FakeContext("x").query_device(), None)
    assert (attributes.max_sge, attributes.max_sge_rd, attributes.max_qp_wr) == (4, 1, 1024)
    assert attributes.max_mr_bytes == MAX_MESSAGE
    # The device has the extensions, but not for memory of a process.
    assert attributes.caps == DeviceCap(0)
    assert attributes.send_with_invalidate
    assert attributes.max_fragments == 1


def test_a_device_that_cannot_invalidate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeContext, "limits", {"device_cap_flags": 0})
    assert not read_attributes(FakeContext("x").query_device(), None).send_with_invalidate


def test_indirect_keys_can_be_invalidated_and_hold_lists() -> None:
    attributes = read_attributes(FakeContext("x").query_device(), SimpleNamespace(max_list=99))  # type: ignore[arg-type]
    assert attributes.caps == DeviceCap.MEM_MGT_EXTENSIONS | DeviceCap.SG_GAPS_REG
    assert attributes.max_sg_list == 99


def test_the_kind_of_a_device_is_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened_module, "SYSFS", str(tmp_path))
    (tmp_path / "siw0").mkdir()
    (tmp_path / "siw0" / "node_type").write_text("4: RNIC\n")
    assert node_type("siw0") == 4
    assert node_type("none") == 0


@pytest.mark.parametrize(
    ("code", "fix"),
    [(13, "allow this user to open /dev/infiniband"), (2, "load its driver"), (12, "no memory"), (5, "iser doctor")],
)
def test_a_device_that_cannot_be_opened_is_one_sentence_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, code: int, fix: str
) -> None:
    def refuse(name: str) -> FakeContext:
        raise FakeRdmaError(f"Failed to open device {name}\nfor some reason", code)

    pyverbs = FakePyverbs()
    monkeypatch.setattr(pyverbs, "Context", refuse)
    monkeypatch.setattr(opened_module, "load_pyverbs", lambda: pyverbs)
    with pytest.raises(ResourceError, match=fix) as caught:
        VerbsDevice("rxe0", VerbsOptions())
    assert "\n" not in str(caught.value)


async def test_a_fatal_event_ends_every_connection_of_the_device(device: VerbsDevice) -> None:
    ends = [End(device, QpCap(64, 4)) for _ in range(2)]
    for end in ends:
        end.connect()
    report(device, AsyncEvent.DEVICE_FATAL)
    await turns()
    for end in ends:
        assert "fake0 reported DEVICE_FATAL" in str(end.ends[0])
        await end.close()


@pytest.mark.parametrize(("state", "ended"), [(4, 0), (1, 1)])
async def test_a_port_that_stays_down_ends_its_connections(
    device: VerbsDevice, monkeypatch: pytest.MonkeyPatch, state: int, ended: int
) -> None:
    monkeypatch.setattr(opened_module, "PORT_GRACE", 0.01)
    device.context.query_port = lambda number: SimpleNamespace(state=state)
    end = End(device, QpCap(64, 4))
    end.connect()
    report(device, AsyncEvent.PORT_ERR)
    await turns(20)
    assert len(end.ends) == ended
    if ended:
        assert str(end.ends[0]) == "peer:1: port 1 of RDMA device fake0 is down"
    await end.close()


async def test_other_events_are_logged_and_end_nothing(device: VerbsDevice, caplog: pytest.LogCaptureFixture) -> None:
    end = End(device, QpCap(64, 4))
    end.connect()
    report(device, AsyncEvent.PORT_ERR)
    report(device, AsyncEvent.QP_ACCESS_ERR)
    report(device, 99)
    await turns()
    assert not end.ends
    assert "fake0 reported PORT_ERR" in caplog.text
    assert "QP_ACCESS_ERR" not in caplog.text
    await end.close()


def report(device: VerbsDevice, kind: int) -> None:
    """An event as pyverbs hands it over."""
    acknowledged: list[int] = []
    event = SimpleNamespace(event_type=kind, ack=lambda: acknowledged.append(kind))
    device.context.get_async_event = lambda: event
    device._on_async_event()
    assert acknowledged == [kind]
