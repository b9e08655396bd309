"""Addresses and sockets."""

from __future__ import annotations

import errno
import socket

import pytest

from iser.net.sockets import addresses_of, bind, dial, display, peer_name, resolve, why_not


def test_addresses_are_displayed_as_people_write_them() -> None:
    assert display(("127.0.0.1", 3260)) == "127.0.0.1:3260"
    assert display(("::1", 3260)) == "[::1]:3260"


async def test_a_name_is_dialled_until_one_of_its_addresses_answers() -> None:
    (place,) = await resolve("127.0.0.1", 0, passive=True)
    listener = bind(*place, 1 << 16)
    address = listener.getsockname()
    dead = (socket.AF_INET, ("127.0.0.1", 1))
    sock = await dial([dead, (socket.AF_INET, address)], 1 << 16)
    local, remote = addresses_of(sock)
    assert (local[0], remote) == ("127.0.0.1", address)
    assert peer_name(sock) == display(address)
    sock.close()
    assert peer_name(sock) == "a peer that has gone"
    listener.close()


@pytest.mark.parametrize("places", [[], [(socket.AF_INET, ("127.0.0.1", 1))]])
async def test_when_nobody_answers_the_last_error_is_raised(places: list[tuple[int, tuple[str, int]]]) -> None:
    with pytest.raises(OSError, match=r"no address|Connect call failed"):
        await dial(places, 0)


async def test_an_address_that_is_taken_leaves_nothing_open() -> None:
    listener = bind(socket.AF_INET, ("127.0.0.1", 0), 0)
    with pytest.raises(OSError, match="in use"):
        bind(socket.AF_INET, listener.getsockname(), 0)
    listener.close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('x', 1)"), "nobody listens there; start the"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('x', 1)"), "No route to host"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("the name has no address"), "the name has no address"),
    ],
)
def test_a_failure_is_told_without_the_address_once_more(error: OSError, words: str) -> None:
    assert why_not(error).startswith(words)
