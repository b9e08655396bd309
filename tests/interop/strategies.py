"""Every registration strategy against a peer: lists of each class out and back, every byte compared.

``python -m tests.interop.strategies URL`` does the same against any LUN, whose first blocks are overwritten.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import Any, Final

import initiator
from initiator.lun import Lun
from iser.datamover import IserInitiator
from iser.sg import STRATEGY_NAMES, SgClass
from iser.sg.planner import has_long_lived_keys
from iser.sg.strategies import Immediate
from tests.interop.lists import check_lists
from tests.interop.peers.base import Connect

__all__ = ["STRATEGY_NAMES", "check_strategy"]

_SIZES: Final = (16 << 10, 64 << 10)
#: Classes that a strategy serves itself; the others it hands on, and counts.
_SERVED: Final = {
    "dma_key": (SgClass.SINGLE,),
    "frwr": (SgClass.SINGLE, SgClass.PAGE_ALIGNED, SgClass.PAGE_VEC),
    "mr512": (SgClass.SINGLE, SgClass.PAGE_ALIGNED, SgClass.SECTOR_GAPPY),
    "immediate": (),
}


async def check_strategy(
    connect: Connect, strategy: str, *, sizes: tuple[int, ...] = _SIZES, remotely: tuple[bool, ...] = (True, False)
) -> Counter[str]:
    """Move lists of every class, with remote and with local invalidation; gives how often each strategy served.

    Raises AssertionError.
    """
    served: Counter[str] = Counter()
    for remote in remotely:
        options: dict[str, Any] = {"strategy": strategy, "remote_invalidate": remote}
        async with await connect(**options, immediate_data=strategy == Immediate.name) as lun:
            datamover = lun.link.datamover
            assert isinstance(datamover, IserInitiator)
            for kind in SgClass:
                before = lun.counters.copy()
                await check_lists(lun, kind, sizes, seed=21, depth=2)
                spent = lun.counters.since(before)
                if kind in _SERVED.get(strategy, ()) and datamover.device.name.startswith("softiwarp"):
                    assert set(spent.by_strategy) == {strategy}, f"{kind.value} lists went to {spent.by_strategy}"
            served += lun.counters.by_strategy
            assert datamover.planner.in_use == 0
            assert has_long_lived_keys(strategy) or datamover.live_keys == 0, "a key outlived its command"
    return served


async def _main(url: str) -> None:
    async def connect(**options: Any) -> Lun:
        return await initiator.connect(url, **options)

    for strategy in STRATEGY_NAMES:
        served = await check_strategy(connect, strategy)
        sys.stdout.write(f"{strategy}: {', '.join(f'{name} {count}' for name, count in sorted(served.items()))}\n")


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
