"""Identifiers: events in order, to whoever waits or handles them, and none after the end."""

from __future__ import annotations

import asyncio
from typing import cast

from iser.rdma.verbs.constants import CmEventType
from iser.rdma.verbs.events import CmId, EventChannel
from iser.rdma.verbs.rdmacm import CmEvent
from tests.rdma.verbs.conftest import turns
from tests.rdma.verbs.fakes import FakeEventChannel


def event(kind: CmEventType) -> CmEvent:
    return CmEvent(kind, 0, 1, 0, b"", 0, 0)


def new_id(channel: FakeEventChannel) -> CmId:
    return CmId(cast("EventChannel", channel), 1)


async def test_events_wait_in_order_for_whoever_asks() -> None:
    cm = new_id(FakeEventChannel())
    cm.deliver(event(CmEventType.ADDR_RESOLVED))
    task = asyncio.create_task(cm.next_event())
    assert (await task).type is CmEventType.ADDR_RESOLVED
    task = asyncio.create_task(cm.next_event())
    await turns(1)
    cm.deliver(event(CmEventType.ROUTE_RESOLVED))
    cm.deliver(event(CmEventType.ESTABLISHED))
    assert (await task).type is CmEventType.ROUTE_RESOLVED
    assert (await cm.next_event()).type is CmEventType.ESTABLISHED


async def test_a_handler_gets_those_that_waited_first() -> None:
    cm = new_id(FakeEventChannel())
    seen: list[CmEventType] = []
    cm.deliver(event(CmEventType.ESTABLISHED))
    cm.handle(lambda each: seen.append(each.type))
    cm.deliver(event(CmEventType.DISCONNECTED))
    assert seen == [CmEventType.ESTABLISHED, CmEventType.DISCONNECTED]


async def test_an_identifier_that_a_thread_uses_is_destroyed_when_the_thread_is_done() -> None:
    channel = FakeEventChannel()
    cm = new_id(channel)
    cm.lock()
    cm.destroy()
    cm.destroy()
    assert cm.destroyed
    assert channel.library.calls == []
    cm.unlock()
    assert channel.library.calls == ["destroy"]
    assert not channel.ids
