"""Each case about lists finds the fault that it looks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest

from iser.datamover import IserTarget
from iser.sg import SgClass, slice_views
from tests.initiator.conformance.bad import FAIL, Fault, check, wrap

__all__ = ["FAULTS"]


def _names(direction: str) -> list[str]:
    return [f"shapes.{direction}-{kind.value.lower().replace('_', '-')}" for kind in SgClass]


def _drops_a_piece(old: Any) -> Any:
    """Long reads are moved in two pieces, the second of them to where the first one is."""

    def put_data(
        self: IserTarget, itt: int, views: Sequence[memoryview], offset: int, data_sn: int, *, notify: bool
    ) -> None:
        length = sum(map(len, views))
        if length <= 4096:
            old(self, itt, views, offset, data_sn, notify=notify)
            return
        old(self, itt, slice_views(views, 0, 4096), offset, data_sn, notify=False)
        old(self, itt, slice_views(views, 4096, length - 4096), offset, data_sn, notify=notify)

    return put_data


def _reads_backwards(old: Any) -> Any:
    """Long writes are fetched page by page, the second before the first."""

    def get_data(self: IserTarget, itt: int, views: Sequence[memoryview], offset: int, r2t_sn: int) -> None:
        whole = slice_views(views, 0, sum(map(len, views)))
        old(self, itt, whole[::-1] if len(whole) > 1 else [whole[0][1:]], offset, r2t_sn)

    return get_data


FAULTS: Final = (
    Fault("reads", wrap(IserTarget, "put_data", _drops_a_piece), dict.fromkeys(_names("read"), FAIL)),
    Fault("writes", wrap(IserTarget, "get_data", _reads_backwards), dict.fromkeys(_names("write"), FAIL)),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)
