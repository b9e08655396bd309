"""Runs in the guest: ``python -m tests.interop.guest_siw ADDRESS read|send``, over siw without what works round it.

``read`` is one RDMA Read into two buffers, which our provider makes two; it prints which of them have what was read.
``send`` is a Send with Invalidate, as our provider sends it, and another with inline data; it prints which arrive.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from iser.errors import ConnectionLost
from iser.rdma.api import Access, ConnectionParams, ConnectRequest, RdmaRead, Send
from iser.rdma.choose import make_provider
from iser.rdma.softiwarp import SoftIwarpOptions
from iser.rdma.verbs.constants import SEND_INLINE
from iser.rdma.verbs.posting import Poster
from iser.rdma.verbs.qp import VerbsQueuePair
from tests.interop.rping import End

__all__ = ["main"]

_HALF: Final = 4096
_MESSAGE: Final = bytes(16)


async def _joined(address: str, work: Callable[[End, End], Awaitable[list[bool]]]) -> None:
    """Do ``work`` with two ends of a connection, and print what came out."""
    provider = await make_provider("verbs", address, SoftIwarpOptions())
    accepted: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    async def on_request(request: ConnectRequest) -> None:
        end = End(request.device)
        await request.accept(end.qp, ConnectionParams(responder_resources=1, initiator_depth=1))
        accepted.set_result(end)

    listener = await provider.listen(address, 0, on_request)
    ours = await End.connect(provider, address, listener.address[1])
    other = await accepted
    # Said at once: the end of the process may fail in pyverbs, which is not what is looked at.
    sys.stdout.write(f"{await work(ours, other)}\n")
    sys.stdout.flush()
    for end in (ours, other):
        await end.close()
    await listener.close()


async def _read(ours: End, other: End) -> list[bool]:
    source = other.pd.alloc_buffer(2 * _HALF)
    source[:] = b"x" * len(source)
    region = other.region([source], Access.REMOTE_READ)
    sinks = [ours.pd.alloc_buffer(_HALF) for _ in range(2)]
    _poster(ours)._max_sge_rd = 2
    await ours.carry_out(RdmaRead("read", sinks, region.iova, region.rkey))
    return [sink == source[:_HALF] for sink in sinks]


async def _send(ours: End, other: End) -> list[bool]:
    region = other.region([other.pd.alloc_buffer(_HALF)], Access.REMOTE_READ)
    arrived = [await _arrives(ours, other, region.rkey)]
    requests = _poster(ours)._requests
    make = requests._make

    def make_inline(**given: Any) -> Any:
        return make(**given | {"send_flags": given["send_flags"] | SEND_INLINE})

    requests._make = make_inline
    return [*arrived, await _arrives(ours, other, region.rkey)]


async def _arrives(ours: End, other: End, key: int) -> bool:
    buffer = ours.pd.alloc_buffer(len(_MESSAGE))
    buffer[:] = _MESSAGE
    try:
        await ours.carry_out(Send("send", [buffer], invalidate=key))
    except ConnectionLost:
        return False
    return await other.message() is not None


def _poster(end: End) -> Poster:
    assert isinstance(end.qp, VerbsQueuePair)
    return end.qp._poster


_WORK: Final = {"read": _read, "send": _send}


def main(address: str, work: str) -> None:
    """Raises ConnectionLost if a read does not complete in success."""
    asyncio.run(_joined(address, _WORK[work]))


if __name__ == "__main__":
    main(*sys.argv[1:])
