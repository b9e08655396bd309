"""Tests of target.workers.channel, over real socket pairs."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import ConnectionLost
from target.workers.channel import MAX_DESCRIPTORS, MAX_MESSAGE, Channel
from tests.target.peer import until


class End:
    """One end, and what came to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[tuple[bytes, list[int]]] = []
        self.ends = 0
        self.channel = Channel(sock, lambda data, descriptors: self.messages.append((data, descriptors)), self.ended)

    def ended(self) -> None:
        self.ends += 1


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[End, End]]:
    one, two = map(End, socket.socketpair())
    yield one, two
    one.channel.close()
    two.channel.close()


async def test_messages_arrive_whole_and_in_order_in_both_directions() -> None:
    async with pair() as (one, two):
        messages = [b"", b"x", os.urandom(3 << 20), b"last"]
        await asyncio.gather(*(one.channel.send(each) for each in messages), two.channel.send(b"back"))
        await until(lambda: len(two.messages) == len(messages))
        assert [data for data, _ in two.messages] == messages
        await until(lambda: one.messages)
        assert one.messages == [(b"back", [])]


async def test_descriptors_come_with_their_message() -> None:
    async with pair() as (one, two):
        reads, writes = zip(*(os.pipe() for _ in range(3)), strict=True)
        await one.channel.send(b"a" * 400_000, reads[:1])
        await one.channel.send(b"none")
        await one.channel.send(b"", reads[1:])
        await until(lambda: len(two.messages) == 3)
        assert [len(descriptors) for _, descriptors in two.messages] == [1, 0, 2]
        received = [each for _, descriptors in two.messages for each in descriptors]
        for number, (write, read) in enumerate(zip(writes, received, strict=True)):
            os.write(write, bytes((number,)))
            assert os.read(read, 9) == bytes((number,))
            assert not os.get_inheritable(read)
        for each in (*reads, *writes, *received):
            os.close(each)


async def test_the_end_is_told_once_and_sending_fails_then() -> None:
    async with pair() as (one, two):
        one.channel.close()
        one.channel.close()
        await until(lambda: two.ends)
        assert (one.ends, two.ends) == (0, 1)
        for end in (one, two):
            with pytest.raises(ConnectionLost):
                await end.channel.send(b"x")


@pytest.mark.parametrize("header", [(MAX_MESSAGE + 1).to_bytes(4, "big") + bytes(2), bytes(4) + b"\0\1"])
async def test_what_is_no_message_ends_the_channel(header: bytes) -> None:
    ours, theirs = socket.socketpair()
    end = End(theirs)
    ours.sendall(header)
    await until(lambda: end.ends)
    assert end.messages == []
    ours.close()


async def test_descriptors_that_belong_to_nothing_end_the_channel() -> None:
    ours, theirs = socket.socketpair()
    end = End(theirs)
    read, write = os.pipe()
    frame = (1).to_bytes(4, "big") + bytes(2) + b"x"  # of a message without descriptors
    for _ in range(3):
        socket.send_fds(ours, [frame], [write] * (MAX_DESCRIPTORS // 2))
        await asyncio.sleep(0.01)
    os.close(write)
    await until(lambda: end.ends)
    assert len(end.messages) == 3
    assert os.read(read, 1) == b""
    os.close(read)
    ours.close()


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 2)), max_size=6), st.integers(0, 1 << 32))
@settings(max_examples=40, deadline=None)
def test_however_the_bytes_come(messages: list[tuple[bytes, int]], seed: int) -> None:
    """Cut anywhere; the descriptors of a message come with the first byte of its header."""
    randomness = random.Random(seed)

    async def check() -> None:
        ours, theirs = socket.socketpair()
        end = End(theirs)
        with ours, open(os.devnull, "rb") as file:  # noqa: ASYNC230 - opens at once
            for data, count in messages:
                frame = len(data).to_bytes(4, "big") + count.to_bytes(2, "big") + data
                socket.send_fds(ours, [frame[:1]], [file.fileno()] * count)
                rest = frame[1:]
                while rest:
                    cut = randomness.randint(1, len(rest))
                    ours.sendall(rest[:cut])
                    rest = rest[cut:]
                    await asyncio.sleep(0)
        await until(lambda: end.ends)
        assert [(data, len(descriptors)) for data, descriptors in end.messages] == messages
        for _, descriptors in end.messages:
            for each in descriptors:
                os.close(each)

    asyncio.run(check())


async def test_descriptors_of_a_message_that_never_comes_are_closed() -> None:
    ours, theirs = socket.socketpair()
    end = End(theirs)
    read, write = os.pipe()
    socket.send_fds(ours, [(9).to_bytes(4, "big") + b"\0\1"], [write])
    os.close(write)
    ours.close()
    await until(lambda: end.ends)
    assert os.read(read, 1) == b""  # nobody else has the other end
    os.close(read)
