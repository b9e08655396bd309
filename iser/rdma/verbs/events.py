"""Connection events on the event loop: one channel, and for each identifier whoever waits for its next event."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from iser.rdma.verbs.constants import CmEventType
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.rdmacm import CmEvent, CmLibrary

__all__ = ["CmId", "EventChannel"]


class CmId:
    """A connection identifier.  Events wait in order for :meth:`next_event`, or go to ``handler`` once that is set."""

    def __init__(self, channel: EventChannel, pointer: int) -> None:
        self.channel = channel
        self.library = channel.library
        self.pointer = pointer
        self._events: deque[CmEvent] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._handler: Callable[[CmEvent], None] | None = None
        self._in_use = 0
        self._destroyed = False
        channel.enter(self)

    @property
    def destroyed(self) -> bool:
        """True once nothing more comes of it."""
        return self._destroyed

    def deliver(self, event: CmEvent) -> None:
        """Called by the channel."""
        if self._handler is not None:
            self._handler(event)
            return
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def handle(self, handler: Callable[[CmEvent], None]) -> None:
        """Pass events on from now on, and those that wait first."""
        self._handler = handler
        while self._events:
            handler(self._events.popleft())

    async def next_event(self) -> CmEvent:
        """The next event."""
        while not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._events.popleft()

    def lock(self) -> None:
        """A thread uses the identifier: it must not be destroyed before :meth:`unlock`."""
        self._in_use += 1

    def unlock(self) -> None:
        """Undo :meth:`lock`."""
        self._in_use -= 1
        if self._destroyed and not self._in_use:
            self.library.destroy_id(self.pointer)
            self.channel.leave(self)

    def destroy(self) -> None:
        """No event comes after this.  Idempotent."""
        if not self._destroyed:
            self._destroyed = True
            self._handler = _ignore
            if not self._in_use:
                self.library.destroy_id(self.pointer)
                self.channel.leave(self)


class EventChannel:
    """The channel of all identifiers that one event loop has.  It closes itself with the last of them."""

    def __init__(self, library: CmLibrary) -> None:
        self.library = library
        self._loop = asyncio.get_running_loop()
        try:
            self._channel, self._fd = library.create_channel()
        except OSError as error:
            raise device_error("opening the RDMA connection manager", error) from error
        self._ids: dict[int, CmId] = {}
        self.closed = False
        self._loop.add_reader(self._fd, self._drain)

    @property
    def usable(self) -> bool:
        """True while this channel is open and belongs to the running loop."""
        return not self.closed and self._loop is asyncio.get_running_loop()

    def create_id(self) -> CmId:
        """A new identifier.  Raises OSError."""
        try:
            return CmId(self, self.library.create_id(self._channel))
        except OSError:
            self._close_if_idle()
            raise

    def enter(self, cm: CmId) -> None:
        """Route the events of an identifier to it."""
        self._ids[cm.pointer] = cm

    def leave(self, cm: CmId) -> None:
        """An identifier is gone."""
        self._ids.pop(cm.pointer, None)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._ids and not self.closed:
            self.closed = True
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            self.library.destroy_channel(self._channel)

    def _drain(self) -> None:
        while not self.closed:
            event = self.library.get_event(self._channel)
            if event is None:
                return
            # A request carries a new identifier, which only its listener can know.
            key = event.listener if event.type is CmEventType.CONNECT_REQUEST else event.identifier
            cm = self._ids.get(key)
            if cm is not None:
                cm.deliver(event)
            elif event.type is CmEventType.CONNECT_REQUEST:
                self.library.destroy_id(event.identifier)


def _ignore(event: CmEvent) -> None:
    """The handler of an identifier that is gone."""
