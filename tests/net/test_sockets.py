"""Addresses and sockets."""

from __future__ import annotations

import errno
import socket

import pytest

from iser.net.sockets import (
    LOCAL_CONGESTION,
    addresses_of,
    bind,
    dial,
    display,
    is_loopback,
    peer_name,
    resolve,
    why_not,
)


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


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_loopback_is_known_in_every_form(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0"])
def test_nothing_else_is_loopback(host: str) -> None:
    assert not is_loopback(host)


def _congestion(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


async def test_both_ends_of_a_connection_within_the_machine_do_without_pacing() -> None:
    listener = bind(socket.AF_INET, ("127.0.0.1", 0), 0)
    dialled = await dial([(socket.AF_INET, listener.getsockname())], 0)
    accepted, _ = listener.accept()
    assert [_congestion(sock) for sock in (dialled, accepted)] == [LOCAL_CONGESTION] * 2
    for sock in (dialled, accepted, listener):
        sock.close()


async def test_elsewhere_the_congestion_control_is_the_system_s_own() -> None:
    listener = bind(socket.AF_INET, ("0.0.0.0", 0), 0)
    with socket.socket() as plain:
        assert _congestion(listener) == _congestion(plain)
    listener.close()
