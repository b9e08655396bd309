"""The agent and the host's end of its line, joined by a socket pair instead of a machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab.channel import AgentChannel, CommandFailed, Result
from tests.lab.errors import LabError
from tests.lab.guest.agent import LIMIT, Agent


@pytest.fixture
def channel() -> Iterator[AgentChannel]:
    """A channel to an agent on this machine."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, theirs.makefile("rwb", buffering=0) as port:
            Agent(port).serve()  # type: ignore[arg-type]  # SocketIO is raw I/O with all that the agent uses

    agent = threading.Thread(target=serve, daemon=True)
    agent.start()
    channel = AgentChannel(ours)
    channel.ready.result(5)
    yield channel
    channel.close()
    agent.join(5)
    assert not agent.is_alive()


def run(channel: AgentChannel, script: str, stdin: bytes = b"", seconds: float = 10.0) -> Result:
    """A script's result."""
    return channel.start(("/bin/bash", "-c", script), stdin, seconds)[1].result(20)


def test_a_command_gives_its_exit_code_and_both_outputs(channel: AgentChannel) -> None:
    result = run(channel, "cat; echo grüße; echo trouble >&2; exit 3", b"typed\n")
    assert (result.exit, result.out, result.err) == (3, "typed\ngrüße\n", "trouble\n")


def test_commands_run_side_by_side(channel: AgentChannel) -> None:
    _, slow = channel.start(("/bin/sleep", "0.5"), b"", 10)
    assert run(channel, "echo quick").out == "quick\n"
    assert not slow.done()
    assert slow.result(5).exit == 0


def test_a_command_is_killed_when_its_time_is_up_with_all_that_it_started(channel: AgentChannel) -> None:
    start = time.monotonic()
    result = run(channel, "sleep 60 & sleep 60", seconds=0.2)
    assert result.exit == -9
    assert "killed after 0.2 seconds" in result.err
    assert time.monotonic() - start < 5


def test_a_command_can_be_killed(channel: AgentChannel) -> None:
    number, future = channel.start(("/bin/sleep", "60"), b"", 60)
    run(channel, "true")
    channel.kill(number)
    assert future.result(5).exit == -9


def test_a_daemon_left_behind_does_not_hold_up_the_answer(channel: AgentChannel) -> None:
    assert run(channel, "setsid sleep 3 & echo started").out == "started\n"


def test_a_program_that_does_not_exist_is_exit_code_127(channel: AgentChannel) -> None:
    result = channel.start(("/nonexistent/program",), b"", 5)[1].result(5)
    assert result.exit == 127
    assert "No such file" in result.err


def test_output_is_cut_at_its_limit(channel: AgentChannel) -> None:
    assert len(run(channel, f"head -c {LIMIT + 1000} /dev/zero").out) == LIMIT


def test_a_failed_command_says_which_and_why() -> None:
    with pytest.raises(CommandFailed, match=r"'mkfs /dev/x' ended with 1: no such device"):
        Result("mkfs  /dev/x", 1, "", "trying\nno such device\n").checked()


def test_the_end_of_the_machine_fails_what_waits_and_what_comes_later() -> None:
    ours, theirs = socket.socketpair()
    channel = AgentChannel(ours)
    _, future = channel.start(("true",), b"", 5)
    theirs.close()
    with pytest.raises(LabError, match="machine ended during 'true'"):
        future.result(5)
    with pytest.raises(LabError, match="before its agent was there"):
        channel.ready.result(5)
    with pytest.raises(LabError, match="the machine has ended"):
        channel.start(("true",), b"", 5)
    channel.close()
