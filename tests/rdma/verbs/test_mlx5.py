"""The work requests that configure mlx5's indirect keys, exactly as they are posted."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.rdma.verbs import mlx5 as mlx5_module
from iser.rdma.verbs.constants import SEND_INLINE, SEND_SIGNALED
from iser.rdma.verbs.mlx5 import KEY_ENTRIES, open_mlx5, post_list
from iser.rdma.verbs.split import Element
from tests.rdma.verbs.fakes import FakeSGE
from tests.rdma.verbs.mlx5 import Key, Recorder

ACCESS = 7
#: Where distributions put pyverbs, which no package registry has in a form that fits their libraries.
SYSTEM = "/usr/lib/python3/dist-packages"


def system_module(name: str) -> Any:
    """A module of the system's pyverbs; None where there is none."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    sys.path.append(SYSTEM)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
    finally:
        sys.path.remove(SYSTEM)
        root.handlers[:], root.level = before


#: pyverbs' own elements where they can be had, and in any case those that check what pyverbs' do.
SGES: list[Callable[[int, int, int], Any]] = [FakeSGE]
if (module := system_module("pyverbs.wr")) is not None:
    SGES.append(module.SGE)


def elements_of(count: int) -> list[Element]:
    return [(0x1000 + 100 * index, 3 + index % 5, 40 + index) for index in range(count)]


@pytest.mark.parametrize("sge", SGES)
def test_a_short_list_is_one_inline_request(sge: Callable[[int, int, int], Any]) -> None:
    qp = Recorder()
    assert post_list(qp, 6, SEND_SIGNALED, [Key(1)], ACCESS, elements_of(3), sge) == 1
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


def test_the_system_has_what_is_called_or_none_of_it() -> None:
    dv, mkey, numbers = (
        system_module(f"pyverbs.providers.mlx5.{name}") for name in ("mlx5dv", "mlx5dv_mkey", "mlx5_enums")
    )
    if dv is None:
        assert mkey is None
        return
    for name in ("wr_id", "wr_flags", "wr_start", "wr_mr_list", "wr_local_inv", "wr_complete"):
        assert hasattr(dv.Mlx5QP, name)
    assert hasattr(mkey.Mlx5Mkey, "rkey")
    assert numbers.MLX5DV_MKEY_INIT_ATTR_FLAGS_REMOTE_INVALIDATE == mlx5_module._MKEY_REMOTE_INVALIDATE
    assert numbers.MLX5DV_QP_EX_WITH_MR_LIST == mlx5_module._OPS_MR_LIST
    assert numbers.MLX5DV_QP_EX_WITH_MKEY_CONFIGURE == mlx5_module._OPS_MKEY_CONFIGURE
    assert numbers.MLX5DV_QP_CREATE_DISABLE_SCATTER_TO_CQE == mlx5_module._QP_DISABLE_SCATTER_TO_CQE
    attr = dv.Mlx5DVQPInitAttr(comp_mask=5, send_ops_flags=6, create_flags=8)
    assert "With MR list, With Mkey configure" in str(attr)


def test_devices_of_other_drivers_have_no_such_keys() -> None:
    assert open_mlx5("lo_is_no_rdma_device") is None
