"""Polling before sleeping: the rule with a clock of its own, and the event loop as it runs."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from iser.net import busy_poll, busypoll, spare_processors
from iser.net.busypoll import CONTENDED, FIRST_REST, LOST_SHARE, MAX_BURST, REACH, REST, PollPolicy
from tests.net.test_stream import Echo, pair

WINDOW = 100e-6
STEP = 2e-6  # seconds between two looks


class World:
    """A loop without the loop: requests come at times of their own, and are served in no time."""

    def __init__(self, window: float = WINDOW) -> None:
        self.policy = PollPolicy(window)
        self.now = 1000.0
        self.polled = 0.0

    def request(self, gap: float, serving: float = 0.0) -> bool:
        """One comes ``gap`` seconds after the last was served, which takes ``serving``; whether a poll saw it come."""
        arrival = self.now + gap
        policy = self.policy
        while policy.polling and self.now + STEP < arrival:
            self._look(STEP)
        seen = policy.polling
        before, self.now = self.now, arrival + serving
        policy.arrived(self.now)
        if seen:
            self.polled += self.now - before
            policy.step(self.now)
        return seen

    def _look(self, seconds: float) -> None:
        self.now += seconds
        self.polled += seconds
        self.policy.step(self.now)


def test_quick_requests_are_waited_for_from_the_third_on() -> None:
    world = World()
    assert [world.request(50e-6) for _ in range(5)] == [False, False, True, True, True]
    assert (world.policy.won, world.policy.lost) == (3, 0)


def test_a_window_of_nothing_is_never_polled() -> None:
    world = World(0.0)
    assert not any(world.request(gap) for gap in (50e-6, 0.0, 1e-9))


def test_slow_requests_are_never_polled_for() -> None:
    world = World()
    assert not any(world.request(1.01 * REACH * WINDOW) for _ in range(100))
    assert (world.polled, world.policy.lost) == (0.0, 0)


def test_who_is_late_because_we_sleep_is_waited_for() -> None:
    """It takes longer than the window only where it has to wake us up."""
    world = World()
    wake_up = 80e-6
    for _ in range(100):
        world.request(60e-6 if world.policy.polling else 60e-6 + wake_up)
    assert world.policy.won == 98
    assert world.policy.lost == 0


def test_large_requests_are_left_alone() -> None:
    """Whoever takes much longer to be served than the window is long gains nothing by a poll."""
    world = World()
    assert not any(world.request(10e-6, serving=250e-6) for _ in range(100))


def test_it_sleeps_when_nothing_came_for_a_window() -> None:
    world = World()
    for _ in range(3):
        world.request(50e-6)
    begin = world.polled
    assert not world.request(1.0)
    assert world.polled - begin == pytest.approx(WINDOW, abs=2 * STEP)
    assert world.policy.lost == 1


def test_an_idle_target_owes_nothing() -> None:
    world = World()
    for _ in range(3):
        world.request(50e-6)
    world.request(1.0)
    polled = world.polled
    for _ in range(10):
        world.request(1.0)
    assert world.polled == polled


@given(st.lists(st.floats(0, 3 * WINDOW), min_size=1, max_size=20), st.integers(1, 3))
def test_polls_in_vain_have_their_share_and_no_more(gaps: list[float], rounds: int) -> None:
    """Whatever the requests do: the worst are those that are quick once, and then just too slow."""
    world = World()
    begin, lost = world.now, 0.0
    for _ in range(rounds * 40):
        for gap in gaps:
            before, count = world.polled, world.policy.lost
            world.request(gap)
            if world.policy.lost > count:
                lost += world.polled - before
    elapsed = world.now - begin
    assert lost <= elapsed * LOST_SHARE + (MAX_BURST + 1) * (WINDOW + STEP)


def test_the_worst_case_is_what_is_promised() -> None:
    world = World()
    begin = world.now
    for _ in range(20000):
        world.request(10e-6)
        world.request(WINDOW + 10e-6)
    assert world.policy.lost > 500
    assert world.policy.lost * WINDOW / (world.now - begin) == pytest.approx(LOST_SHARE, rel=0.1)


def test_few_losses_among_many_wins_do_not_stop_it() -> None:
    world = World()
    seen = sum(world.request(10 * WINDOW if number % 100 == 99 else 50e-6) for number in range(10000))
    assert seen > 9500


def test_who_is_kept_from_the_processor_leaves_it_to_others() -> None:
    """For a moment the first time, for longer each time that it comes again."""
    world = World()
    pauses = []
    for _ in range(9):
        while not world.policy.polling:
            world.request(50e-6)
        world.now += 1.1 * CONTENDED
        began = world.now
        assert not world.policy.step(world.now)
        while not world.policy.polling:
            assert not world.request(50e-6)
        pauses.append(world.now - began)
    expected = [min(FIRST_REST * 2**number, REST) for number in range(9)]
    assert pauses == pytest.approx(expected, abs=200e-6)
    for _ in range(round(2 * REST / 50e-6) + 1):
        world.request(50e-6)
    world.now += 1.1 * CONTENDED
    began = world.now
    world.policy.step(world.now)
    while not world.policy.polling:
        world.request(50e-6)
    assert world.now - began == pytest.approx(FIRST_REST, abs=200e-6)


def test_nothing_is_polled_while_threads_need_the_interpreter() -> None:
    world = World()
    for _ in range(3):
        world.request(50e-6)
    world.policy.held += 1
    assert not any([world.request(50e-6) for _ in range(10)][1:])
    assert world.policy.lost == 0
    world.policy.held -= 1
    assert any(world.request(50e-6) for _ in range(3))


def test_a_processor_of_its_own_is_none_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3})
    assert spare_processors(1)
    assert not spare_processors(2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert not spare_processors(1)


# On the event loop


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    def runner(main: Callable[[], object]) -> None:
        with asyncio.Runner(loop_factory=request.param) as loop:
            loop.run(main())  # type: ignore[arg-type]

    return runner


@asynccontextmanager
async def echoing() -> AsyncIterator[socket.socket]:
    """A socket whose other end is a stream that sends everything back."""
    stream, ours = pair(Echo())
    try:
        yield ours
    finally:
        ours.close()
        await stream.close()


async def ask(sock: socket.socket, times: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(times):
        await loop.sock_sendall(sock, b"ping")
        assert await loop.sock_recv(sock, 4) == b"ping"


def test_requests_that_come_at_once_are_won(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busypoll, "CONTENDED", 60.0)  # on a machine that others use, too

    async def main() -> None:
        poll = busy_poll()
        poll.window = 0.5
        async with echoing() as sock:
            await ask(sock, 100)
        assert poll.won > 50

    run(main)


def test_a_loop_with_nothing_to_do_sleeps(run: Callable[..., None]) -> None:
    async def main() -> None:
        poll = busy_poll()
        poll.window = 1e-3
        async with echoing() as sock:
            await ask(sock, 20)
            await asyncio.sleep(0.05)
            begin = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - begin < 0.025
            assert not poll.polling

    run(main)


def test_by_default_nothing_is_polled(run: Callable[..., None]) -> None:
    async def main() -> None:
        async with echoing() as sock:
            await ask(sock, 20)
        assert (busy_poll().won, busy_poll().lost) == (0, 0)

    run(main)


def test_a_loop_has_one(run: Callable[..., None]) -> None:
    async def main() -> None:
        assert busy_poll() is busy_poll()

    run(main)
