"""Each case about keys and addresses finds the fault that it looks for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import pytest

from iser.datamover import IserTarget
from iser.pdu import RSV, Pdu, ScsiCommand, ScsiResponse
from iser.rdma.api import RdmaRead, RdmaWrite
from target.session import Session
from tests.initiator.conformance.bad import FAIL, WARN, Fault, check, wrap

__all__ = ["FAULTS"]


def _puts(how: Any) -> Any:
    """``how(self, itt, views, put)``, where ``put(views, offset)`` is what is right."""

    def make(old: Any) -> Any:
        def put_data(
            self: IserTarget, itt: int, views: Sequence[memoryview], offset: int, data_sn: int, *, notify: bool
        ) -> None:
            del offset
            how(self, itt, list(views), lambda these, at=0: old(self, itt, these, at, data_sn, notify=notify))

        return put_data

    return wrap(IserTarget, "put_data", make)


def _aligned(self: IserTarget, itt: int, views: list[memoryview], put: Any) -> None:
    tags = self._tags[itt]
    self._tags[itt] = tags._replace(header=tags.header._replace(read_base=tags.header.read_base & ~3))
    put(views)


def _region_start(self: IserTarget, itt: int, views: list[memoryview], put: Any) -> None:
    """Bases are taken for pages."""
    tags = self._tags[itt]
    self._tags[itt] = tags._replace(header=tags.header._replace(read_base=tags.header.read_base & ~4095))
    put(views)


def _padded(self: IserTarget, itt: int, views: list[memoryview], put: Any) -> None:
    tags = self._tags[itt]
    self._tags[itt] = tags._replace(edtl=tags.edtl + 8)
    put([*views, memoryview(bytes(8))])


def _late(self: IserTarget, itt: int, views: list[memoryview], put: Any) -> None:
    """Data comes behind the response."""
    header = self._tags[itt].header
    post, copies = self._post, [memoryview(bytes(view)) for view in views]
    work = RdmaWrite(None, copies, header.read_base, header.read_stag, False)
    self._remote_invalidate = False
    asyncio.get_running_loop().call_later(0.02, post, work)


def _again(old: Any) -> Any:
    """A key is used once more behind the response."""

    def send(self: IserTarget, pdu: Pdu) -> None:
        tags = self._tags.get(pdu.bhs.itt) if isinstance(pdu.bhs, ScsiResponse) else None
        self._remote_invalidate = False
        old(self, pdu)
        if tags and tags.header.read_stag:
            work = RdmaWrite(None, [memoryview(b"late")], tags.header.read_base, tags.header.read_stag, False)
            asyncio.get_running_loop().call_later(0.01, self._post, work)
        elif tags:
            fetch = RdmaRead((0, 0), [memoryview(bytearray(8))], tags.header.write_base, tags.header.write_stag)
            asyncio.get_running_loop().call_later(0.01, self._post, fetch)

    return send


def _reads_ahead(old: Any) -> Any:
    """Every write buffer is fetched, whether it is needed or not, and every read buffer is touched."""

    def received(self: IserTarget, header: Any, pdu: Pdu, invalidated: int) -> None:
        if isinstance(pdu.bhs, ScsiCommand) and header.write_stag:
            self._post(RdmaRead((0, 0), [memoryview(bytearray(8))], header.write_base - 8, header.write_stag))
        elif isinstance(pdu.bhs, ScsiCommand) and header.read_stag:
            self._post(RdmaWrite(None, [memoryview(b"?")], header.read_base, header.read_stag, False))
        old(self, header, pdu, invalidated)

    return received


def _answers_zero(old: Any) -> Any:
    """WRITE of no blocks does not end well."""

    def notify(self: Session, pdu: Pdu) -> None:
        if isinstance(pdu.bhs, ScsiCommand) and pdu.bhs.cdb[0] == 0x2A and not pdu.bhs.edtl:
            self._send(ScsiResponse(itt=pdu.bhs.itt, status=2))
        else:
            old(self, pdu)

    return notify


def _mixed(old: Any) -> Any:
    """Data goes to the key that came last."""

    def received(self: IserTarget, header: Any, pdu: Pdu, invalidated: int) -> None:
        if isinstance(pdu.bhs, ScsiCommand) and header.flags & RSV:
            header = header._replace(read_stag=self.__dict__.setdefault("_first_key", header.read_stag))
        old(self, header, pdu, invalidated)

    return received


def _wrong_source(old: Any) -> Any:
    def get_data(self: IserTarget, itt: int, views: Any, offset: int, r2t_sn: int) -> None:
        tags = self._tags[itt]
        self._tags[itt] = tags._replace(header=tags.header._replace(write_base=tags.header.write_base & ~511))
        old(self, itt, views, offset, r2t_sn)

    return get_data


def _good_without_key(old: Any) -> Any:
    def notify(self: Session, pdu: Pdu) -> None:
        bhs = pdu.bhs
        if isinstance(bhs, ScsiCommand) and bhs.edtl and not self._datamover.can_put(bhs.itt):
            self._send(ScsiResponse(itt=bhs.itt))
        elif isinstance(bhs, ScsiCommand) and bhs.cdb[0] == 0x12:
            self._datamover.deallocate_task_resources(bhs.itt)
            self._send(ScsiResponse(itt=bhs.itt))
        else:
            old(self, pdu)

    return notify


def _drops_without_key(old: Any) -> Any:
    def notify(self: Session, pdu: Pdu) -> None:
        bhs = pdu.bhs
        if not (isinstance(bhs, ScsiCommand) and bhs.edtl and not self._datamover.can_put(bhs.itt)):
            old(self, pdu)

    return notify


FAULTS: Final = (
    Fault("bases are multiples of 4", _puts(_aligned), {"tags.unaligned-read": FAIL}),
    Fault("bases are pages", _puts(_region_start), {"tags.read-base": FAIL, "tags.unaligned-read": FAIL}),
    Fault("reads are padded", _puts(_padded), {"tags.within-edtl": FAIL}),
    Fault("data behind the response", _puts(_late), {"tags.in-place": FAIL, "tags.after-read": FAIL}),
    Fault("no data at all", _puts(lambda *_: None), {"tags.one-transfer": FAIL, "tags.in-place": FAIL}),
    Fault("once more", wrap(IserTarget, "send_control", _again), {"tags.after-read": FAIL, "tags.after-write": FAIL}),
    Fault("ahead", wrap(IserTarget, "_received", _reads_ahead), {"tags.no-data": FAIL, "tags.useless-key": FAIL}),
    Fault("no write of nothing", wrap(Session, "control_notify", _answers_zero), {"tags.zero-write": FAIL}),
    Fault("one key for all", wrap(IserTarget, "_received", _mixed), {"tags.side-by-side": FAIL}),
    Fault("sources are sectors", wrap(IserTarget, "get_data", _wrong_source), {"tags.unaligned-write": FAIL}),
    Fault("the base is byte 0's", wrap(IserTarget, "_base_is_byte_zero", lambda _: lambda self: True), {
        "tags.write-base": FAIL,
    }),
    Fault("the base is never byte 0's", wrap(IserTarget, "_base_is_byte_zero", lambda _: lambda self: False), {
        "tags.byte-zero": FAIL,
    }),
    Fault("good without a key", wrap(Session, "control_notify", _good_without_key), {
        "tags.no-key": FAIL, "tags.bad-key": FAIL,
    }),
    Fault("dropped without a key", wrap(Session, "control_notify", _drops_without_key), {"tags.no-key": WARN}),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)
