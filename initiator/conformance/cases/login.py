"""Logins: stages, what must be there, what must be refused (RFC 7143 section 6.3)."""

from __future__ import annotations

from typing import Any, Final

from initiator.conformance.case import Case
from initiator.conformance.site import Site, new_isid
from initiator.conformance.talk import Talk, offers, refused
from initiator.conformance.verdict import Failure, Unusual, require
from iser.login import LoginStatus, encode_text
from iser.pdu import IMMEDIATE, LOGIN_CONTINUE, NopIn, NopOut, Stage

__all__ = ["CASES"]

_NO_TARGET: Final = "iqn.2026-11.invalid:no-such-target"
_PARTS: Final = 3


async def _direct(site: Site) -> None:
    async with site.talk() as talk:
        said = await talk.log_in([*talk.introduction(), *offers()])
        require(said.done, f"the login ends in status {said.status:04x}")
        last = said.responses[-1]
        require(last.tsih, "the final response has TSIH 0; a new session must get a number")
        require(last.isid == talk.fields["isid"], "the final response does not echo the ISID")
        require(all(r.itt == 0 for r in said.responses), "a response does not echo the request's ITT")
        numbers = [r.stat_sn for r in said.responses]
        require(numbers == [numbers[0] + i for i in range(len(numbers))], f"StatSN of the responses: {numbers}")


async def _security(site: Site) -> None:
    async with site.talk() as talk:
        first = [*talk.introduction(), ("AuthMethod", "None")]
        await talk.exchange(first, Stage.SECURITY, Stage.OPERATIONAL)
        require(talk.said.status == 0, f"AuthMethod=None in the security stage ends in status {talk.said.status:04x}")
        require(talk.said.pairs.get("AuthMethod") == "None", "AuthMethod=None is not answered with None")
        said = await talk.log_in(offers())
        require(said.done, f"the operational stage after it ends in status {said.status:04x}")


async def _split(site: Site) -> None:
    async with site.talk() as talk:
        text = encode_text([*talk.introduction(), *offers()])
        size = len(text) // _PARTS
        for start in range(0, size * (_PARTS - 1), size):
            talk.send(text[start : start + size], Stage.OPERATIONAL, None, more=True)
            await talk.receive()
            said = talk.said
            ended = "ends the connection" if said.status == -1 else f"is refused with status {said.status:04x}"
            require(said.status == 0, f"a text in several PDUs (C bit) {ended}")
            require(not said.pairs and not said.done, "a part of a text (C bit) is answered before the text is whole")
        talk.send(text[size * (_PARTS - 1) :], Stage.OPERATIONAL, Stage.FULL_FEATURE)
        await talk.receive()
        said = talk.said if talk.said.done or talk.said.status else await talk.log_in([])
        require(said.done, f"a text in several PDUs ends in status {said.status:04x}")


async def _first_alone(site: Site) -> None:
    async with site.talk() as talk:
        await talk.exchange(talk.introduction(), Stage.OPERATIONAL, None)
        require(talk.said.status == 0, f"names first and keys later ends in status {talk.said.status:04x}")
        require(not talk.said.done, "the target ends the login although T was not set")
        said = await talk.log_in(offers())
        require(said.done, f"the second request ends in status {said.status:04x}")


async def _unknown_target(site: Site) -> None:
    async with site.talk() as talk:
        said = await talk.log_in([*talk.introduction(TargetName=_NO_TARGET), *offers()])
        refused(said, "an unknown target name", LoginStatus.NOT_FOUND)


def _without(name: str) -> Any:
    async def run(site: Site) -> None:
        async with site.talk() as talk:
            said = await talk.log_in([*talk.introduction(name), *offers()])
            refused(said, f"a login without {name}", LoginStatus.MISSING_PARAMETER)

    return run


async def _version(site: Site) -> None:
    async with site.talk() as talk:
        talk.fields |= {"version_min": 0x20, "version_max": 0x21}
        said = await talk.log_in([*talk.introduction(), *offers()])
        refused(said, "a version from 20h on", LoginStatus.UNSUPPORTED_VERSION)


async def _bad_tsih(site: Site) -> None:
    async with site.session() as session, site.talk() as talk:
        tsih = session.result.tsih
        talk.fields |= {"tsih": tsih ^ 0x5555, "isid": new_isid(), "cid": 2}
        said = await talk.log_in([*talk.introduction("SessionType"), *offers()])
        refused(said, "a TSIH that no session has", LoginStatus.SESSION_DOES_NOT_EXIST)
        await session.alive()


async def _second_connection(site: Site) -> None:
    async with site.session() as session, site.talk() as talk:
        result = session.result
        talk.fields |= {"tsih": result.tsih, "isid": result.isid, "cid": result.cid + 1}
        said = await talk.log_in([*talk.introduction("SessionType"), *offers()])
        usual = (LoginStatus.TOO_MANY_CONNECTIONS, LoginStatus.CANNOT_INCLUDE_IN_SESSION)
        refused(said, "a second connection where MaxConnections=1", *usual)
        await session.alive()


async def _reinstatement(site: Site) -> None:
    async with site.session() as old:
        isid = old.result.isid
        async with site.session(isid=isid) as new:
            require(await old.closed(), "the same name and ISID with TSIH 0 leaves the old session running")
            await new.alive()


async def _parallel(site: Site) -> None:
    async with site.session() as first, site.session() as second:
        require(first.result.tsih != second.result.tsih, f"two sessions have the TSIH {first.result.tsih}")
        await first.alive()
        await second.alive()


def _flags(what: str, csg: int, nsg: int | None, flags: int = 0) -> Any:
    async def run(site: Site) -> None:
        async with site.talk() as talk:
            talk.send(encode_text([*talk.introduction(), *offers()]), csg, nsg, flags=flags)
            await talk.receive()
            usual = (LoginStatus.INITIATOR_ERROR, LoginStatus.INVALID_DURING_LOGIN)
            refused(talk.said, what, *usual)

    return run


async def _not_a_login(site: Site) -> None:
    async with site.connected() as probe:
        probe.send(NopOut(opcode=IMMEDIATE))
        arrival = await probe.anything()
        if arrival is None and probe.end is None:
            raise Unusual("a NOP-Out as the first PDU gets no answer, and the connection stays open")
        require(arrival is None or not isinstance(arrival.bhs, NopIn), "a NOP-Out before the login is answered")


async def _changed_isid(site: Site) -> None:
    async with site.talk() as talk:
        await talk.exchange([*talk.introduction()], Stage.OPERATIONAL, None)
        require(talk.said.status == 0, f"the first request ends in status {talk.said.status:04x}")
        talk.fields["isid"] = new_isid()
        said = await talk.log_in(offers())
        if said.done:
            raise Unusual("the ISID may change from one login request to the next")


async def _session_type(site: Site) -> None:
    async with site.talk() as talk:
        said = await talk.log_in([*talk.introduction(SessionType="Strange"), *offers()])
        usual = (LoginStatus.SESSION_TYPE_NOT_SUPPORTED, LoginStatus.INITIATOR_ERROR)
        refused(said, "SessionType=Strange", *usual)


async def _auth_method(site: Site) -> None:
    async with site.talk() as talk:
        pairs = [*talk.introduction(), ("AuthMethod", "X-org.example.method")]
        await talk.exchange(pairs, Stage.SECURITY, None)
        if talk.said.pairs.get("AuthMethod") == "Reject" and not talk.said.done:
            return
        usual = (LoginStatus.AUTHENTICATION_FAILURE, LoginStatus.INITIATOR_ERROR)
        refused(talk.said, "only an unknown AuthMethod", *usual)


async def _status_after_refusal(site: Site) -> None:
    async with site.talk() as talk:
        await talk.log_in([*talk.introduction(TargetName=_NO_TARGET), *offers()])
        if not await talk.probe.closed():
            raise Unusual("the target leaves a connection open whose login it refused")


async def _ready(site: Site) -> None:
    async with site.session(settled=False) as session:
        await session.alive()


async def _many(site: Site) -> None:
    seen: set[int] = set()
    for _ in range(8):
        async with site.session() as session:
            seen.add(session.result.tsih)
            await session.alive()
    require(seen - {0} == seen, "a session has TSIH 0")


async def _text_without_end(site: Site) -> None:
    async with site.talk() as talk:
        await _send_bad_text(talk, b"InitiatorName")
    async with site.talk() as talk:
        await _send_bad_text(talk, b"=value\0\xff\xfe=x\0")


async def _send_bad_text(talk: Talk, data: bytes) -> None:
    talk.send(data, Stage.OPERATIONAL, Stage.FULL_FEATURE)
    await talk.receive()
    if talk.said.done:
        raise Failure(f"the text {data!r}, which has no names in it, logs in")


CASES: Final = (
    Case("direct", "one exchange in the operational stage; TSIH, ISID, StatSN", "RFC 7143 6.3, 11.13", _direct),
    Case("security-stage", "AuthMethod=None in a stage of its own", "RFC 7143 6.3.2", _security),
    Case("names-first", "names in one request, keys in the next", "RFC 7143 6.3", _first_alone),
    Case("split-text", "a text over several PDUs, cut inside a pair", "RFC 7143 6.2, 11.12.2", _split),
    Case("unknown-target", "an unknown target is 0203", "RFC 7143 11.13.5", _unknown_target),
    Case("no-initiator-name", "a missing InitiatorName is 0207", "RFC 7143 6.3, 13.5", _without("InitiatorName")),
    Case("no-target-name", "a missing TargetName is 0207", "RFC 7143 6.3, 13.4", _without("TargetName")),
    Case("version", "an unknown version is 0205", "RFC 7143 11.12.4, 11.13.5", _version),
    Case("unknown-tsih", "a TSIH that no session has is 020a", "RFC 7143 6.3.1, 11.13.5", _bad_tsih),
    Case("second-connection", "no second connection with MaxConnections=1", "RFC 7143 13.2", _second_connection),
    Case("reinstatement", "the same nexus with TSIH 0 ends its old session", "RFC 7143 6.3.5", _reinstatement),
    Case("parallel", "another ISID is another session", "RFC 7143 4.4.3", _parallel),
    Case("ready", "a command right behind the final response", "RFC 7143 4.2.5", _ready),
    Case("many", "logins and ends, one after the other", "RFC 7143 6.3", _many),
    Case("session-type", "an unknown SessionType is refused", "RFC 7143 13.21", _session_type),
    Case("auth-method", "an unknown AuthMethod alone is refused", "RFC 7143 12.1", _auth_method),
    Case("reserved-stage", "CSG 2 is refused", "RFC 7143 11.12.3", _flags("CSG 2", 2, Stage.FULL_FEATURE), risky=True),
    Case(
        "backward",
        "NSG below CSG is refused",
        "RFC 7143 11.12.3",
        _flags("a step backward", 1, Stage.SECURITY),
        risky=True,
    ),
    Case("same-stage", "NSG equal to CSG is refused", "RFC 7143 11.12.3", _flags("NSG 1 in stage 1", 1, 1), risky=True),
    Case(
        "transit-and-continue",
        "T with C is refused",
        "RFC 7143 11.12.2",
        _flags("T together with C", 1, Stage.FULL_FEATURE, LOGIN_CONTINUE),
        risky=True,
    ),
    Case("changed-isid", "the ISID stays the same during a login", "RFC 7143 11.12.5", _changed_isid),
    Case("refusal-closes", "a refused login ends the connection", "RFC 7143 6.3", _status_after_refusal),
    Case("bad-text", "text that is no list of pairs does not log in", "RFC 7143 6.1", _text_without_end, risky=True),
    Case("not-a-login", "another PDU before the login", "RFC 7143 6.3", _not_a_login, risky=True),
)
