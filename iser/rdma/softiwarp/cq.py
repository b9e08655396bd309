"""The completion queue of the software RNIC."""

from __future__ import annotations

from iser.rdma.api import CompletionHandler, CompletionQueue, WorkCompletion

__all__ = ["SoftCompletionQueue"]


class SoftCompletionQueue(CompletionQueue):
    """Passes each batch on to the handler, on the event loop."""

    __slots__ = ("deliver", "depth")

    def __init__(self, depth: int, handler: CompletionHandler) -> None:
        self.depth = depth
        self.deliver: CompletionHandler = handler

    def close(self) -> None:
        self.deliver = _discard


def _discard(batch: list[WorkCompletion]) -> None:
    """The handler of a closed queue."""
