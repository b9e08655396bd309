"""Runs in the guest: ``python -m tests.interop.guest_siw ADDRESS``, one RDMA Read into two buffers over siw.

Prints which of the two have what was read, without our provider's rule of one buffer for each read there.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from iser.rdma.api import Access, ConnectionParams, ConnectRequest, RdmaRead
from iser.rdma.choose import make_provider
from iser.rdma.softiwarp import SoftIwarpOptions
from iser.rdma.verbs.qp import VerbsQueuePair
from tests.interop.rping import End

__all__ = ["main"]

_HALF: Final = 4096


async def _read(address: str) -> None:
    provider = await make_provider("verbs", address, SoftIwarpOptions())
    accepted: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    async def on_request(request: ConnectRequest) -> None:
        end = End(request.device)
        await request.accept(end.qp, ConnectionParams(responder_resources=1, initiator_depth=1))
        accepted.set_result(end)

    listener = await provider.listen(address, 0, on_request)
    reader = await End.connect(provider, address, listener.address[1])
    other = await accepted
    source = other.pd.alloc_buffer(2 * _HALF)
    source[:] = b"x" * len(source)
    region = other.region([source], Access.REMOTE_READ)
    sinks = [reader.pd.alloc_buffer(_HALF) for _ in range(2)]
    assert isinstance(reader.qp, VerbsQueuePair)
    reader.qp._poster._max_sge_rd = 2
    await reader.carry_out(RdmaRead("read", sinks, region.iova, region.rkey))
    # Said at once: the end of the process may fail in pyverbs, which is not what is looked at.
    sys.stdout.write(f"{[sink == source[:_HALF] for sink in sinks]}\n")
    sys.stdout.flush()
    for end in (reader, other):
        await end.close()
    await listener.close()


def main(address: str) -> None:
    """Raises ConnectionLost if the read does not complete in success."""
    asyncio.run(_read(address))


if __name__ == "__main__":
    main(*sys.argv[1:])
