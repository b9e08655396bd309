"""Each case about remote invalidation finds the fault that it looks for."""

from __future__ import annotations

from typing import Any, Final

import pytest

from initiator.conformance import Verdict
from initiator.conformance.probe import Probe
from iser.datamover import IserTarget
from iser.pdu import PLAIN_HEADER, LogoutResponse, NopIn, Pdu, ScsiResponse, TaskManagementResponse, encode
from tests.initiator.conformance.bad import FAIL, SKIP, WARN, Fault, check, outcomes, site_of, wrap

__all__ = ["FAULTS"]


def _keys(choose: Any) -> Any:
    """``choose(self, pdu, tags)`` says which key a PDU invalidates."""

    def make(old: Any) -> Any:
        def send(self: IserTarget, pdu: Pdu) -> None:
            tags = self._tags.pop(pdu.bhs.itt, None) if isinstance(pdu.bhs, ScsiResponse) else None
            if tags:
                self.__dict__.setdefault("_seen", []).append(tags.header.read_stag or tags.header.write_stag)
            key = choose(self, pdu, tags)
            self._send(PLAIN_HEADER + encode(pdu), invalidate=key)

        del old
        return send

    return wrap(IserTarget, "send_control", make)


def _always(self: IserTarget, pdu: Pdu, tags: Any) -> int:
    """Agreed or not."""
    del self, pdu
    return int(tags.header.read_stag or tags.header.write_stag) if tags else 0


def _only_good(self: IserTarget, pdu: Pdu, tags: Any) -> int:
    return 0 if getattr(pdu.bhs, "status", 0) else _always(self, pdu, tags)


def _another(self: IserTarget, pdu: Pdu, tags: Any) -> int:
    """Always the key of the first command."""
    return int(self.__dict__.setdefault("_first", tags.header.read_stag)) if tags else 0


def _reads_only(self: IserTarget, pdu: Pdu, tags: Any) -> int:
    del self, pdu
    return int(tags.header.read_stag) if tags else 0


def _with(kind: type[Any]) -> Any:
    """A PDU without a key of its own invalidates the last one that was advertised."""

    def choose(self: IserTarget, pdu: Pdu, tags: Any) -> int:
        if isinstance(pdu.bhs, kind) and not tags:
            return int(self._seen[-1]) if hasattr(self, "_seen") else 0
        return 0

    return choose


FAULTS: Final = (
    Fault("never", _keys(lambda self, pdu, tags: 0), {
        "invalidation.reads": WARN, "invalidation.failed": WARN, "invalidation.many": WARN, "invalidation.writes": WARN,
    }),
    Fault("not the writes'", _keys(_reads_only), {"invalidation.writes": WARN}),
    Fault("not with errors", _keys(_only_good), {"invalidation.failed": WARN}),
    Fault("another's", _keys(_another), {"invalidation.many": FAIL}),
    Fault("always", _keys(_always), {"invalidation.not-offered": FAIL, "invalidation.no-private-data": WARN}),
    *(
        Fault(f"with {kind.__name__}", _keys(_with(kind)), {"invalidation.not-offered": FAIL})
        for kind in (NopIn, TaskManagementResponse, LogoutResponse)
    ),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)


def _idle_key(self: IserTarget, pdu: Pdu, tags: Any) -> int:
    del self, tags
    return _idle.pop() if isinstance(pdu.bhs, NopIn) and _idle else 0


_idle: list[int] = []
ONLY_TAGGED: Final = "invalidation.only-tagged"


async def test_a_key_that_no_command_used_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target cannot know such a key but by chance, so the test tells it."""
    register = Probe.register

    def spy(self: Probe, *args: Any) -> Any:
        region = register(self, *args)
        _idle.append(region.key)
        return region

    async with site_of() as site:
        monkeypatch.setattr(Probe, "register", spy)
        _keys(_idle_key)(monkeypatch)
        found = (await outcomes(site, ONLY_TAGGED))[ONLY_TAGGED]
    assert found.verdict is Verdict.FAIL
    assert "NopIn invalidates" in found.why


async def test_without_the_offer_the_cases_say_who_does_not_make_it() -> None:
    async with site_of() as site:
        names = [f"invalidation.{name}" for name in ("reads", "failed", "many", "writes", "only-tagged")]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                "iser.datamover.target.build_private_data", lambda remote_invalidate: bytes((0xC0, 0, 0, 0))
            )
            found = await outcomes(site, *names)
    assert {outcome.verdict for outcome in found.values()} == {SKIP}
    assert all("c0000000" in outcome.why for outcome in found.values())
