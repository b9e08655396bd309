"""mlx5 without hardware: queue pairs that remember which lists they were given."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from iser.rdma.verbs.mlx5 import INLINE_BYTES, Mkey
from iser.rdma.verbs.split import Element
from iser.sg import SgList
from tests.rdma.verbs.fakes import FakeContext, FakePD, FakeQP, FakeSGE

__all__ = ["FakeMlx5", "Key", "ListQP", "Recorder", "scattered"]


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


class ListQP(FakeQP, Recorder):
    """A queue pair that takes both kinds of requests; ``order`` says in which order they came."""

    max_inline = INLINE_BYTES

    def __init__(self, pd: FakePD, init: SimpleNamespace) -> None:
        FakeQP.__init__(self, pd, init)
        Recorder.__init__(self)
        self.invalidated: list[tuple[int, int, int]] = []

    def wr_local_inv(self, invalidate_rkey: int) -> None:
        self.invalidated.append((self.wr_id, self.wr_flags, invalidate_rkey))


class FakeMlx5:
    """:class:`iser.rdma.verbs.mlx5.Mlx5`."""

    max_list = 2048
    sge = FakeSGE

    def __init__(self) -> None:
        self.context = FakeContext("mlx5_0")
        self.keys: list[Key] = []

    def make_key(self, pd: FakePD, entries: int) -> Key:
        self.keys.append(Key(0xA00 + len(self.keys)))
        return self.keys[-1]

    def make_qp(self, pd: FakePD, cq: object, cap: SimpleNamespace) -> ListQP:
        assert cap.max_inline_data >= INLINE_BYTES
        return ListQP(pd, SimpleNamespace(scq=cq, cap=cap))


def scattered(memory: memoryview, count: int) -> SgList:
    return SgList.of([memory[16 * index : 16 * index + 5 + index % 3] for index in range(count)], writable=True)
