"""What follows a segment that was received in place: the next of the same message, at once, or anything else."""

from __future__ import annotations

import pytest

from iser.rdma.api import Access, RegMr, inc_rkey
from iser.rdma.softiwarp.wire import OP_SEND_INV, OP_WRITE
from tests.rdma.softiwarp.support import Elements, Peer, buffer, refuses, tagged, untagged, with_receive

IOVA = 0x7F0000001000
LARGE = 40_000
GOES_ON = 16  # bytes of the next segment that are looked at together with the end of the one before


def in_place(views: list[memoryview], *, last: bool = False) -> tuple[Peer, int, memoryview]:
    """A peer that has received all of a large segment but its CRC field, the key of the region, and a receive."""
    peer, target = with_receive(count=2)
    mr = peer.region(views)
    stream = tagged(OP_WRITE, mr.rkey, IOVA, b"1" * LARGE, last=last)
    peer.give(stream[:1000])
    peer.give(stream[1000:-4])
    return peer, mr.rkey, target


@pytest.mark.parametrize("elements", [[3 * LARGE], [LARGE - 7, 10, 50_000, 1, 0, LARGE]])
@pytest.mark.parametrize("step", [1, 3, 16, 17, 1000, 1 << 20])
def test_segments_follow_each_other_however_they_come(elements: list[int], step: int) -> None:
    views = [buffer(length) for length in elements]
    peer, key, _ = in_place(views)
    stream = bytes(4) + tagged(OP_WRITE, key, IOVA + LARGE, b"2" * LARGE, last=False)
    stream += tagged(OP_WRITE, key, IOVA + 2 * LARGE, b"3" * 30_000)
    head, rest = stream[:200], stream[200:]
    for start in range(0, len(head), step):
        peer.give(head[start : start + step])
    peer.give(rest)
    assert peer.core.error is None
    assert b"".join(views)[: 2 * LARGE + 30_000] == b"1" * LARGE + b"2" * LARGE + b"3" * 30_000
    assert not any(b"".join(views)[2 * LARGE + 30_000 :])
    assert peer.core.rx.writes == 1


def test_each_last_segment_counts_as_a_write() -> None:
    data = buffer(3 * LARGE)
    peer, key, _ = in_place([data], last=True)
    for number in (1, 2):
        stream = bytes(4) + tagged(OP_WRITE, key, IOVA + number * LARGE, b"2" * LARGE)[:-4]
        peer.give(stream[: 4 + GOES_ON])
        peer.give(stream[4 + GOES_ON :])
    peer.give(bytes(4))
    assert peer.core.rx.writes == 3


@pytest.mark.parametrize(
    ("key_change", "to", "length", "codes"),
    [
        (1, LARGE, LARGE, (1, 1, 0)),
        (0x100, LARGE, LARGE, (1, 1, 0)),
        (0, 2 * LARGE, LARGE, (1, 1, 1)),
        (0, 2 * LARGE - 1, LARGE + 2, (1, 1, 1)),
        (0, -1, LARGE, (1, 1, 1)),
        (0, (1 << 64) - IOVA - LARGE, LARGE, (1, 1, 1)),
        (0, (1 << 64) - IOVA - 1, LARGE, (1, 1, 3)),
    ],
)
def test_a_wrong_segment_after_one_in_place(key_change: int, to: int, length: int, codes: tuple[int, ...]) -> None:
    arena = buffer(4 * LARGE)
    peer, key, _ = in_place([arena[LARGE : 3 * LARGE]])
    bad = tagged(OP_WRITE, key + key_change, IOVA + to, b"x" * length, last=False)
    refuses(peer, bytes(4) + bad[:100], *codes)
    assert bytes(arena) == bytes(LARGE) + b"1" * LARGE + bytes(2 * LARGE)


def test_a_key_that_was_invalidated_between_two_segments() -> None:
    data = buffer(2 * LARGE)
    peer, key, _ = in_place([data])
    invalidate = untagged(OP_SEND_INV, b"", stag=key)
    refuses(peer, bytes(4) + invalidate + tagged(OP_WRITE, key, IOVA + LARGE, b"x" * LARGE)[:1000], 1, 1, 0)
    assert not any(data[LARGE:])


def test_a_key_that_was_renewed_between_two_segments() -> None:
    old, new = buffer(2 * LARGE), buffer(2 * LARGE)
    peer, target = with_receive()
    mr = peer.region([old])
    stream = tagged(OP_WRITE, mr.rkey, IOVA, b"1" * LARGE, last=False)
    peer.give(stream[:1000])
    peer.give(stream[1000:-4])
    key = mr.rkey
    mr.invalidate()
    mr.map_sg(Elements([new]))
    peer.core.post_send([RegMr("again", mr, inc_rkey(key), Access.REMOTE_READ)])
    refuses(peer, bytes(4) + tagged(OP_WRITE, mr.rkey, IOVA, b"x" * LARGE)[:1000], 0, 1, 2)
    assert not any(new)
    assert not any(target)
