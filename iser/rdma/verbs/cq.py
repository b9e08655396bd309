"""The completion queue: one wakeup fetches all that is there and hands it on in batches."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Final, Protocol

from iser.net.busypoll import busy_poll
from iser.rdma.api import CompletionHandler, CompletionQueue, WorkCompletion
from iser.rdma.verbs.library import device_error, event_descriptors
from iser.rdma.verbs.opened import OpenDevice

__all__ = ["POLL_BATCH", "VerbsCompletionQueue"]

log = logging.getLogger("iser.rdma.verbs")

POLL_BATCH: Final = 32
POLL_ROUNDS: Final = 8  # batches in one turn, so that one connection does not starve the others


class Completing(Protocol):
    """What completes here: a queue pair of the device, by its number."""

    number: int

    def complete(self, completion: Any, batch: list[WorkCompletion]) -> None: ...

    def settle(self) -> None: ...


class VerbsCompletionQueue(CompletionQueue):
    """See :class:`iser.rdma.api.CompletionQueue`.  It outlives :meth:`close` as long as a queue pair uses it."""

    def __init__(self, device: OpenDevice, depth: int, handler: CompletionHandler) -> None:
        self.depth = depth
        self._device = device
        self._handler: CompletionHandler | None = handler
        self._loop = asyncio.get_running_loop()
        self._busy_poll = busy_poll()
        self._pairs: dict[int, Completing] = {}
        self._again = False
        before = event_descriptors()
        try:
            self._channel: Any = device.pyverbs.CompChannel(device.context)
            self._fd = getattr(self._channel, "fd", None) or (event_descriptors() - before).pop()
            os.set_blocking(self._fd, False)
            self.raw: Any = device.pyverbs.CQ(device.context, depth, None, self._channel, 0)
            self.raw.req_notify()
        except device.pyverbs.Error as error:
            raise device_error(f"making a completion queue of {depth} on {device.name}", error) from error
        device.enter()
        self._loop.add_reader(self._fd, self._on_event)

    def close(self) -> None:
        self._handler = None
        self._free_if_idle()

    def attach(self, pair: Completing) -> None:
        """A queue pair completes here."""
        self._pairs[pair.number] = pair

    def detach(self, number: int) -> None:
        """A queue pair is gone."""
        self._pairs.pop(number, None)
        self._free_if_idle()

    def deliver(self, batch: list[WorkCompletion]) -> None:
        """Hand completions on."""
        if batch and self._handler is not None:
            self._handler(batch)

    def poll(self) -> None:
        """Fetch what is there and hand it on; the rest, if it is a lot, in the next turn of the loop."""
        for _ in range(POLL_ROUNDS):
            if self.raw is None:
                return
            count, completions = self.raw.poll(POLL_BATCH)
            if count:
                self._take(completions)
            if count < POLL_BATCH:
                return
        if not self._again:
            self._again = True
            self._loop.call_soon(self._poll_again)

    def _poll_again(self) -> None:
        self._again = False
        self.poll()

    def _take(self, completions: list[Any]) -> None:
        batch: list[WorkCompletion] = []
        pairs = self._pairs
        for completion in completions:
            pair = pairs.get(completion.qp_num)
            if pair is not None:
                pair.complete(completion, batch)
        self.deliver(batch)
        for pair in list(pairs.values()):
            pair.settle()

    def _on_event(self) -> None:
        try:
            self._channel.get_cq_event(self.raw)
        except self._device.pyverbs.Error:
            return  # nothing there after all
        self.raw.req_notify()
        self.poll()
        if self._busy_poll.window:
            self._busy_poll.served()

    def _free_if_idle(self) -> None:
        if self._handler is not None or self._pairs or self.raw is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        raw, self.raw = self.raw, None
        try:
            raw.close()
            self._channel.close()
        except self._device.pyverbs.Error as error:
            log.warning("%s", device_error(f"closing a completion queue of {self._device.name}", error))
        self._device.leave()
