"""The work requests that configure mlx5's indirect keys, exactly as they are posted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.rdma.verbs.constants import SEND_INLINE, SEND_SIGNALED
from iser.rdma.verbs.mlx5 import INLINE_BYTES, KEY_ENTRIES, Mkey, post_list
from iser.rdma.verbs.split import Element
from tests.rdma.verbs.fakes import FakeSGE

ACCESS = 7


class Key:
    """``Mlx5Mkey``."""

    def __init__(self, number: int) -> None:
        self.lkey = self.rkey = number

    def close(self) -> None: ...


class Recorder:
    """``Mlx5QP`` as far as a list needs it: builds between start and complete, refuses anything else."""

    def __init__(self) -> None:
        self.wr_id = self.wr_flags = 0
        self.building: list[tuple[int, int, int, int, list[Element]]] | None = None
        self.posted: list[tuple[int, int, int, int, list[Element]]] = []

    def wr_start(self) -> None:
        assert self.building is None
        self.building = []

    def wr_mr_list(self, mkey: Mkey, access_flags: int, sge_list: Sequence[FakeSGE]) -> None:
        assert self.building is not None
        assert 0 < len(sge_list) <= (INLINE_BYTES + 4) // 16
        elements = [(sge.addr, sge.length, sge.lkey) for sge in sge_list]
        self.building.append((self.wr_id, self.wr_flags, mkey.lkey, access_flags, elements))

    def wr_local_inv(self, invalidate_rkey: int) -> None:
        raise AssertionError("nothing is invalidated here")

    def wr_complete(self) -> None:
        assert self.building is not None
        self.posted += self.building
        self.building = None


def elements_of(count: int) -> list[Element]:
    return [(0x1000 + 100 * index, 3 + index % 5, 40 + index) for index in range(count)]


def test_a_short_list_is_one_inline_request() -> None:
    qp = Recorder()
    assert post_list(qp, 6, SEND_SIGNALED, [Key(1)], ACCESS, elements_of(3), FakeSGE) == 1
    assert qp.posted == [(6, SEND_INLINE | SEND_SIGNALED, 1, ACCESS, elements_of(3))]


def test_a_long_list_is_a_key_over_keys_posted_together() -> None:
    qp = Recorder()
    elements = elements_of(KEY_ENTRIES + 2)
    keys = [Key(1), Key(2), Key(3)]
    assert post_list(qp, 8, SEND_SIGNALED, keys, ACCESS, elements, FakeSGE) == 3
    first, second, top = qp.posted
    assert first == (8, SEND_INLINE, 2, ACCESS, elements[:KEY_ENTRIES])
    assert second == (8, SEND_INLINE, 3, ACCESS, elements[KEY_ENTRIES:])
    # The keys below are zero-based: each is an entry from 0 on, as long as all of its own.
    lengths = [sum(length for _, length, _ in group) for group in (first[4], second[4])]
    assert top == (8, SEND_INLINE | SEND_SIGNALED, 1, ACCESS, [(0, lengths[0], 2), (0, lengths[1], 3)])


@settings(max_examples=40)
@given(st.integers(1, KEY_ENTRIES * KEY_ENTRIES))
def test_remote_byte_j_is_byte_j_of_the_list(count: int) -> None:
    qp = Recorder()
    elements = elements_of(count)
    keys = [Key(number) for number in range(1, 2 + -(-count // KEY_ENTRIES))]
    assert post_list(qp, 2, 0, keys, ACCESS, elements, FakeSGE) == len(qp.posted)
    configured = {lkey: entries for _, _, lkey, _, entries in qp.posted}
    below = configured.keys() - {1}
    flat = [
        leaf
        for entry in configured[1]
        for leaf in (configured[entry[2]] if below and entry[2] in below and entry[0] == 0 else [entry])
    ]
    assert flat == elements


def test_nothing_is_posted_when_the_builder_refuses() -> None:
    class Refusing(Recorder):
        def wr_complete(self) -> None:
            raise OSError("12: no room in the queue")

    qp = Refusing()
    with pytest.raises(OSError, match="no room"):
        post_list(qp, 2, 0, [Key(1)], ACCESS, elements_of(2), FakeSGE)
    assert not qp.posted
