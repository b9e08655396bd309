"""Addresses and sockets."""

from __future__ import annotations

import socket

import pytest

from iser.net.sockets import addresses_of, bind, dial, display, peer_name, resolve


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
