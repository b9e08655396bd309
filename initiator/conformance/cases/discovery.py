"""Discovery sessions and SendTargets (RFC 7143 appendix C)."""

from __future__ import annotations

from typing import Final

from initiator.conformance.case import Case
from initiator.conformance.probe import Arrival, Probe
from initiator.conformance.site import Session, Site
from initiator.conformance.verdict import Failure, Unusual, require
from iser.errors import IserError
from iser.login import Pair, TargetRecord, TextRequester, parse_targets
from iser.pdu import (
    FINAL,
    IMMEDIATE,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Reject,
    ScsiResponse,
    TextRequest,
    TextResponse,
)
from iser.scsi.cdb import test_unit_ready

__all__ = ["CASES"]

_NO_TARGET: Final = "iqn.2026-11.invalid:no-such-target"
_MAX_PARTS: Final = 200


async def _text(probe: Probe, pairs: list[Pair]) -> list[Pair] | None:
    """The answer to a text; None if it is rejected."""
    probe.itt += 1
    requester = TextRequester(pairs, itt=probe.itt, immediate=True)
    request = requester.start()
    for _ in range(_MAX_PARTS):
        probe.send_control(request._replace(bhs=request.bhs._replace(cmd_sn=probe.cmd_sn)))  # type: ignore[call-arg]  # a TextRequest has one
        arrival = await _answer(probe)
        if arrival is None or isinstance(arrival.bhs, Reject):
            return None
        try:
            following = requester.receive(arrival.pdu)
        except IserError as error:
            raise Failure(f"the answer to a text is malformed: {error}") from error
        if following is None:
            return requester.pairs
        request = following
    raise Failure(f"the answer to a text does not end within {_MAX_PARTS} PDUs")


async def _answer(probe: Probe) -> Arrival | None:
    arrival = await probe.anything()
    require(arrival or probe.end, "a Text Request gets no answer")
    return arrival


async def _targets(probe: Session, wanted: str) -> list[TargetRecord] | None:
    pairs = await _text(probe, [("SendTargets", wanted)])
    if pairs is None or dict(pairs).get("SendTargets") in ("Reject", "NotUnderstood", "Irrelevant"):
        return None
    return parse_targets(pairs)


async def _all(site: Site) -> None:
    async with site.discovery() as session:
        records = await _targets(session, "All")
        require(records is not None, "SendTargets=All is refused")
        names = [record.name for record in records or ()]
        require(site.target in names, f"SendTargets=All lists {names}, not {site.target}")
        lost = [record.name for record in records or () if not record.addresses]
        if lost:
            raise Unusual(f"SendTargets=All gives no address for {', '.join(lost)}")


async def _by_name(site: Site) -> None:
    async with site.discovery() as session:
        records = await _targets(session, site.target)
        require(records is not None, f"SendTargets={site.target} is refused")
        names = [record.name for record in records or ()]
        require(names == [site.target], f"SendTargets of one name lists {names}")


async def _unknown(site: Site) -> None:
    async with site.discovery() as session:
        records = await _targets(session, _NO_TARGET)
        require(not records, f"SendTargets of an unknown name lists {records}")


async def _empty(site: Site) -> None:
    async with site.discovery() as session:
        records = await _targets(session, "")
        if records:
            raise Unusual(
                f"an empty SendTargets in a discovery session lists {len(records)} targets; it has no meaning"
            )


async def _bad(site: Site) -> None:
    async with site.discovery() as session:
        pairs = await _text(session, [("X-org.example.key", "1")])
        if pairs is None:
            raise Unusual("a text with an unknown key is rejected; NotUnderstood is the answer to it")
        answer = dict(pairs).get("X-org.example.key")
        require(answer == "NotUnderstood", f"an unknown key is answered with {answer!r} instead of NotUnderstood")


async def _normal_empty(site: Site) -> None:
    async with site.session() as session:
        records = await _targets(session, "")
        if records is None:
            raise Unusual("an empty SendTargets is refused in a normal session; appendix C has it supported there")
        names = [record.name for record in records]
        require(names == [site.target], f"an empty SendTargets in a normal session lists {names}")


async def _normal_all(site: Site) -> None:
    async with site.session() as session:
        records = await _targets(session, "All")
        if records:
            raise Unusual("SendTargets=All works in a normal session; appendix C keeps it for discovery")


async def _logout(site: Site) -> None:
    async with site.discovery() as session:
        arrival = await session.ask(LogoutRequest(cid=1), LogoutResponse)
        require(arrival.bhs.response == 0, f"the logout is answered with {arrival.bhs.response}")
        if not await session.closed():
            raise Unusual("the target leaves the connection open behind a logout")


async def _named(site: Site) -> None:
    async with site.discovery(target_name=site.target) as session:
        require(
            await _targets(session, "All") is not None, "SendTargets=All is refused in a session that names a target"
        )


async def _bad_ttt(site: Site) -> None:
    async with site.discovery() as session:
        session.send(TextRequest(opcode=0x04 | IMMEDIATE, flags=FINAL, ttt=0x1234))
        arrival = await session.anything()
        if isinstance(arrival and arrival.bhs, TextResponse):
            raise Unusual("a Text Request that continues nothing is answered as a new one")
        if arrival is None and not session.end:
            raise Unusual("a Text Request that continues nothing is dropped without an answer")


async def _ping(site: Site) -> None:
    async with site.discovery() as session:
        session.send(NopOut(opcode=IMMEDIATE))
        arrival = await session.anything()
        if arrival is None or not isinstance(arrival.bhs, NopIn | Reject):
            raise Unusual("a NOP-Out in a discovery session is not answered")


async def _scsi(site: Site) -> None:
    async with site.discovery() as session:
        session.send_command(test_unit_ready())
        arrival = await session.anything()
        if arrival is None and not session.end:
            raise Unusual("a SCSI command in a discovery session is dropped without an answer")
        require(arrival is None or not isinstance(arrival.bhs, ScsiResponse), "a discovery session does SCSI commands")


CASES: Final = (
    Case("all", "SendTargets=All lists the target and where it is", "RFC 7143 app. C", _all),
    Case("by-name", "SendTargets=<name> lists that target alone", "RFC 7143 app. C", _by_name),
    Case("unknown-name", "SendTargets of an unknown name lists nothing", "RFC 7143 app. C", _unknown),
    Case("empty", "an empty SendTargets in a discovery session", "RFC 7143 app. C", _empty),
    Case("unknown-key", "an unknown key in a text", "RFC 7143 6.2, 11.10", _bad),
    Case("with-target-name", "a discovery session may name a target", "RFC 7143 13.4", _named),
    Case("normal-empty", "an empty SendTargets in a normal session", "RFC 7143 app. C", _normal_empty),
    Case("normal-all", "no SendTargets=All in a normal session", "RFC 7143 app. C", _normal_all),
    Case("logout", "a discovery session logs out", "RFC 7143 11.14", _logout),
    Case("bad-tag", "a Text Request with an unknown TTT", "RFC 7143 11.10.4", _bad_ttt, risky=True),
    Case("ping", "NOP-Out in a discovery session", "RFC 7143 11.18", _ping, risky=True),
    Case("scsi", "no SCSI commands in a discovery session", "RFC 7143 4.3", _scsi, risky=True),
)
