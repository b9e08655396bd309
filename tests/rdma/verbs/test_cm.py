"""Connecting and accepting: which calls, in which order, on which kind of device, and what each failure says."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from iser.errors import ConnectionFailed, ConnectionRejected, IserError, UsageError
from iser.rdma.api import ConnectionParams, ConnectRequest, Device, QpCap, QueuePair
from iser.rdma.verbs import cm as cm_module
from iser.rdma.verbs import opened as opened_module
from iser.rdma.verbs.cm import MAX_PRIVATE_DATA, Verbs
from iser.rdma.verbs.constants import QPS_INIT, QPS_RTR, QPS_RTS, CmEventType
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.events import CmId
from iser.rdma.verbs.options import VerbsOptions
from iser.rdma.verbs.qp import VerbsQueuePair
from iser.rdma.verbs.rdmacm import CmEvent, CmLibrary, ConnParam, QpAttr
from tests.rdma.verbs.conftest import turns
from tests.rdma.verbs.fakes import FakeEventChannel, FakePyverbs

LISTENER = 100


class Library:
    """librdmacm with a script: which event follows which call."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.params: list[tuple[int, int, int, int]] = []
        self.answers: dict[str, CmEvent | OSError] = {
            "resolve_addr": answer(CmEventType.ADDR_RESOLVED),
            "resolve_route": answer(CmEventType.ROUTE_RESOLVED),
        }
        self.ids: dict[int, CmId] = {}
        self._next = LISTENER
        self.loop = asyncio.get_running_loop()

    def channel(self) -> FakeEventChannel:
        channel = FakeEventChannel()
        channel.library = self  # type: ignore[assignment]  # it has what is called
        channel.create_id = self._create  # type: ignore[attr-defined]  # likewise
        self._channel = channel
        return channel

    def _create(self) -> CmId:
        cm = CmId(self._channel, self._next)  # type: ignore[arg-type]  # a stand-in
        self.ids[self._next] = cm
        self._next += 1
        return cm

    def _called(self, name: str, identifier: int) -> None:
        self.calls.append(name)
        what = self.answers.get(name)
        if isinstance(what, OSError):
            raise what
        if what is not None:
            self.ids[identifier].deliver(what)

    def resolve_addr(self, identifier: int, address: bytes, timeout: float) -> None:
        self._called("resolve_addr", identifier)

    def resolve_route(self, identifier: int, timeout: float) -> None:
        self._called("resolve_route", identifier)

    def connect(self, identifier: int, param: ConnParam) -> None:
        self._note(param)
        # On iWARP this runs in a thread.
        self.loop.call_soon_threadsafe(self._called, "connect", identifier)

    def accept(self, identifier: int, param: ConnParam) -> None:
        self._note(param)
        self._called("accept", identifier)

    def _note(self, param: ConnParam) -> None:
        self.params.append(
            (param.private_data_len, param.responder_resources, param.initiator_depth, param.rnr_retry_count)
        )

    def establish(self, identifier: int) -> None:
        self._called("establish", identifier)

    def reject(self, identifier: int, private_data: bytes) -> None:
        self._called(f"reject {private_data!r}", identifier)

    def bind(self, identifier: int, address: bytes) -> None:
        self._called("bind", identifier)

    def listen(self, identifier: int, backlog: int) -> None:
        self._called("listen", identifier)

    def disconnect(self, identifier: int) -> None:
        self._called("disconnect", identifier)

    def destroy_id(self, identifier: int) -> None:
        self.calls.append("destroy")

    def source_port(self, identifier: int) -> int:
        return 3260

    def device_name(self, identifier: int) -> str:
        return "fake0"

    def addresses(self, identifier: int) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("192.0.2.1", 5), ("192.0.2.2", 6)

    def init_qp_attr(self, identifier: int, state: int) -> tuple[QpAttr, int]:
        self.calls.append({QPS_INIT: "INIT", QPS_RTR: "RTR", QPS_RTS: "RTS"}[state])
        return QpAttr(qp_state=state), 1


def answer(kind: CmEventType, status: int = 0, data: bytes = b"") -> CmEvent:
    return CmEvent(kind, status, 0, 0, data, 8, 4)


class World:
    """A provider on a scripted library and a fake device."""

    def __init__(self, provider: Verbs, library: Library) -> None:
        self.provider, self.library = provider, library
        self.made: list[VerbsQueuePair] = []

    def set_iwarp(self) -> None:
        self.provider.device("fake0").is_iwarp = True

    def setup(self, device: Device) -> QueuePair:
        assert isinstance(device, VerbsDevice)
        self.pd, self.cq = device.alloc_pd(), device.create_cq(100, lambda batch: None)
        self.made.append(cast("VerbsQueuePair", device.create_qp(self.pd, self.cq, QpCap(32, 4))))
        return self.made[-1]

    async def connect(self, params: ConnectionParams | None = None, timeout: float = 1.0) -> object:
        wanted = params or ConnectionParams(b"1234")
        return await self.provider.connect("192.0.2.2", 6, self.setup, wanted, timeout)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    library = Library()
    monkeypatch.setattr(opened_module, "load_pyverbs", FakePyverbs)
    monkeypatch.setattr(cm_module, "load_rdmacm", lambda: cast("CmLibrary", library))
    provider = Verbs(VerbsOptions(linger_timeout=0.01))
    channel = library.channel()
    monkeypatch.setattr(provider, "channel", lambda: channel)
    return World(provider, library)


async def test_connecting_over_roce_takes_the_queue_pair_through_its_states(world: World) -> None:
    world.library.answers["connect"] = answer(CmEventType.CONNECT_RESPONSE, data=b"abc" + bytes(193))
    qp, info = await world.provider.connect("192.0.2.2", 6, world.setup, ConnectionParams(b"1234", 99, 2))
    order = ["resolve_addr", "resolve_route", "INIT", "connect", "RTR", "RTS", "establish"]
    assert world.library.calls == order
    assert world.library.params == [(4, 16, 2, 7)], "no more than the device serves"
    assert (info.private_data[:4], info.responder_resources, info.initiator_depth) == (b"abc\0", 8, 2)
    await qp.close()
    assert world.library.calls[len(order) :] == ["disconnect", "destroy"]


async def test_connecting_over_iwarp_leaves_the_states_to_the_kernel(world: World) -> None:
    world.set_iwarp()
    world.library.answers["connect"] = answer(CmEventType.ESTABLISHED)
    qp, _ = await world.provider.connect("192.0.2.2", 6, world.setup, lambda device: ConnectionParams(b"x"))
    assert world.library.calls == ["resolve_addr", "resolve_route", "INIT", "connect"]
    await qp.close()


@pytest.mark.parametrize(
    ("call", "what", "kind", "words"),
    [
        ("resolve_addr", answer(CmEventType.ADDR_ERROR, -errno.ENODEV), ConnectionFailed, "choose provider=softiwarp"),
        ("resolve_addr", answer(CmEventType.ADDR_ERROR, -errno.ETIMEDOUT), ConnectionFailed, "timed out"),
        ("resolve_route", OSError(errno.ENODEV, "No such device"), ConnectionFailed, "choose provider=softiwarp"),
        ("resolve_route", OSError(errno.ENETUNREACH, "Network is unreachable"), ConnectionFailed, "unreachable"),
        ("connect", answer(CmEventType.REJECTED, 8), ConnectionFailed, "nobody listens there"),
        ("connect", answer(CmEventType.REJECTED, 28, b"no"), ConnectionRejected, "refused the connection"),
        ("connect", answer(CmEventType.REJECTED, -errno.ECONNRESET), ConnectionRejected, "refused the connection"),
        ("connect", answer(CmEventType.UNREACHABLE, -errno.ETIMEDOUT), ConnectionFailed, "unreachable"),
    ],
)
async def test_each_failure_to_connect_is_one_sentence_and_leaves_nothing(
    world: World, call: str, what: CmEvent | OSError, kind: type[IserError], words: str
) -> None:
    world.library.answers[call] = what
    with pytest.raises(kind, match=words) as caught:
        await world.connect()
    assert type(caught.value) is kind
    assert "192.0.2.2:6" in str(caught.value)
    assert world.library.calls[-1] == "destroy"
    assert all(pair._raw.closed for pair in world.made)


async def test_a_peer_that_does_not_answer_is_given_up_in_time(world: World) -> None:
    with pytest.raises(ConnectionFailed, match=r"did not answer within 0\.05 s"):
        await world.connect(timeout=0.05)
    assert world.library.calls[-1] == "destroy"


async def test_a_thread_that_still_connects_keeps_what_it_uses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.set_iwarp()
    blocked = asyncio.Event()
    release = threading.Event()

    def connect(identifier: int, param: ConnParam) -> None:
        world.library.loop.call_soon_threadsafe(blocked.set)
        release.wait(30)
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(world.library, "connect", connect)
    connecting = asyncio.create_task(world.connect(timeout=30))
    await blocked.wait()
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + 30)  # half a minute goes by
    with pytest.raises(ConnectionFailed, match="did not answer"):
        await connecting
    assert "destroy" not in world.library.calls
    assert not world.made[0]._raw.closed
    release.set()
    async with asyncio.timeout(5):
        while "destroy" not in world.library.calls:
            await turns()
    assert world.made[0]._raw.closed


async def test_private_data_that_some_fabric_would_lose_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="at most 56"):
        await world.connect(ConnectionParams(bytes(MAX_PRIVATE_DATA + 1)))


def request_of(world: World, pointer: int = 200) -> CmEvent:
    """A request whose identifier's events can be delivered afterwards."""
    return CmEvent(CmEventType.CONNECT_REQUEST, 0, pointer, LISTENER, b"\x80\0\0\0" + bytes(52), 200, 3)


async def listen(world: World, handler: Callable[[ConnectRequest], Awaitable[None]]) -> CmId:
    listener = await world.provider.listen("192.0.2.1", 3260, handler)
    assert listener.address == ("192.0.2.1", 3260)
    return world.library.ids[LISTENER]


async def test_accepting_over_roce_brings_the_queue_pair_up_before_the_answer(world: World) -> None:
    infos = []

    async def accept(request: ConnectRequest) -> None:
        assert (request.info.responder_resources, request.info.initiator_depth) == (16, 3)
        infos.append(await request.accept(world.setup(request.device), ConnectionParams(b"ok", 4, 9)))

    listening = await listen(world, accept)
    listening.deliver(request_of(world))
    await turns()
    assert world.library.calls[2:] == ["INIT", "RTR", "RTS", "accept"]
    assert not infos, "the peer has not confirmed"
    world.made[0].established()
    await turns()
    assert (infos[0].responder_resources, infos[0].initiator_depth) == (4, 3)
    assert infos[0].private_data[:4] == b"\x80\0\0\0"
    await world.made[0].close()


async def test_a_peer_that_leaves_before_it_is_accepted_fails_the_accept(world: World) -> None:
    problems: list[ConnectionFailed] = []

    async def accept(request: ConnectRequest) -> None:
        try:
            await request.accept(world.setup(request.device), ConnectionParams())
        except ConnectionFailed as error:
            problems.append(error)

    listening = await listen(world, accept)
    listening.deliver(request_of(world))
    await turns()
    world.made[0]._on_cm_event(answer(CmEventType.CONNECT_ERROR, -1))
    await turns()
    assert "went away before" in str(problems[0])


async def test_a_request_that_nobody_answers_is_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: ConnectRequest) -> None:
        raise ZeroDivisionError("a bug")

    listening = await listen(world, fail)
    listening.deliver(request_of(world))
    await turns()
    assert world.library.calls[-2:] == ["reject b''", "destroy"]
    assert "a bug" in caplog.text


async def test_a_portal_goes_with_its_device(world: World, caplog: pytest.LogCaptureFixture) -> None:
    listening = await listen(world, lambda request: request.reject())
    listening.deliver(answer(CmEventType.ADDR_CHANGE))
    assert "destroy" not in world.library.calls
    listening.deliver(answer(CmEventType.DEVICE_REMOVAL))
    assert world.library.calls[-1] == "destroy"
    assert "its RDMA device was removed" in caplog.text


async def test_a_request_is_answered_once(world: World) -> None:
    async def twice(request: ConnectRequest) -> None:
        await request.reject(b"no")
        with pytest.raises(UsageError, match="has been answered"):
            await request.reject()

    listening = await listen(world, twice)
    listening.deliver(request_of(world))
    await turns()
    assert world.library.calls.count("reject b'no'") == 1


async def test_more_requests_than_may_wait_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cm_module, "MAX_PENDING", 1)
    never = asyncio.Event()

    async def wait(request: ConnectRequest) -> None:
        await never.wait()

    listening = await listen(world, wait)
    listening.deliver(request_of(world, 200))
    listening.deliver(request_of(world, 201))
    assert world.library.calls.count("reject b''") == 1
    never.set()
    await turns()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EADDRNOTAVAIL, "x"), "in use, or no RDMA device has the address"),
        (OSError(errno.ENODEV, "x"), "choose provider=softiwarp"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
async def test_a_portal_that_cannot_be_bound_says_why(world: World, error: OSError, words: str) -> None:
    world.library.answers["bind"] = error
    with pytest.raises(ConnectionFailed, match=words):
        await listen(world, lambda request: request.reject())
    assert world.library.calls[-1] == "destroy"


async def test_a_queue_pair_of_another_provider_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="another provider"):
        await world.provider.connect("192.0.2.2", 6, lambda device: cast("QueuePair", object()), ConnectionParams())
