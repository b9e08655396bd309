"""Keys: their functions, unknown and malformed ones, and what iSER asks of them (RFC 7143 6.2, 13; RFC 7145 6)."""

from __future__ import annotations

import itertools
from typing import Any, Final

from initiator.conformance.case import Case
from initiator.conformance.site import Site
from initiator.conformance.talk import Said, offers
from initiator.conformance.verdict import Failure, Skipped, Unusual, require

__all__ = ["CASES"]

_REFUSALS: Final = ("Reject", "Irrelevant", "NotUnderstood")
_UNKNOWN: Final = "X-org.example.conformance"


async def _login(site: Site, *extra: tuple[str, str], **changes: str | None) -> Said:
    """A login with our usual keys but for ``changes``."""
    async with site.talk() as talk:
        return await talk.log_in([*talk.introduction(), *offers(**changes), *extra])


async def _done(site: Site, *extra: tuple[str, str], **changes: str | None) -> Said:
    said = await _login(site, *extra, **changes)
    what = ", ".join(f"{name}={value}" for name, value in [*changes.items(), *extra]) or "our usual offer"
    require(said.done, f"a login with {what} ends in status {said.status:04x}")
    return said


async def _unknown_key(site: Site) -> None:
    said = await _done(site, (_UNKNOWN, "1"))
    answer = said.pairs.get(_UNKNOWN)
    require(answer == "NotUnderstood", f"an unknown key is answered with {answer!r} instead of NotUnderstood")


async def _order(site: Site) -> None:
    async with site.talk() as talk:
        forward = dict((await talk.log_in([*talk.introduction(), *offers()])).pairs)
    async with site.talk() as talk:
        said = await talk.log_in([*talk.introduction(), *offers()][::-1])
        require(said.done, f"the same keys in the opposite order end in status {said.status:04x}")
        other = {name: value for name, value in said.pairs.items() if forward.get(name) != value}
        require(not other, f"the order of keys changes the answers: {other}")


async def _data_combinations(site: Site) -> None:
    for first, second in itertools.product(("Yes", "No"), repeat=2):
        said = await _done(site, InitialR2T=first, ImmediateData=second)
        initial, immediate = said.pairs.get("InitialR2T", "Yes"), said.pairs.get("ImmediateData", "No")
        if first == "Yes":
            require(initial == "Yes", f"InitialR2T is OR: an offer of Yes is answered with {initial}")
        if second == "No":
            require(immediate == "No", f"ImmediateData is AND: an offer of No is answered with {immediate}")
        require({initial, immediate} <= {"Yes", "No"}, f"InitialR2T={initial}, ImmediateData={immediate}")


def _minimum(name: str, *numbers: int) -> Any:
    async def run(site: Site) -> None:
        for number in numbers:
            changes: dict[str, str | None] = {name: str(number)}
            if name == "MaxBurstLength":
                changes["FirstBurstLength"] = str(min(number, 65536))
            answer = (await _done(site, **changes)).pairs.get(name)
            if answer is None:
                raise Failure(f"{name}={number} is left unanswered")
            good = answer.isdigit() and int(answer) <= number
            require(good, f"the result of {name} is the lower value: an offer of {number} is answered with {answer}")

    return run


async def _first_burst(site: Site) -> None:
    pairs = (await _done(site, MaxBurstLength="8192", FirstBurstLength="65536")).pairs
    first, longest = pairs.get("FirstBurstLength"), pairs.get("MaxBurstLength")
    if first and longest and first.isdigit() and longest.isdigit() and int(first) > int(longest):
        raise Unusual(f"FirstBurstLength={first} is above MaxBurstLength={longest}, which section 13.14 forbids")


def _bad_value(name: str, value: str) -> Any:
    async def run(site: Site) -> None:
        said = await _login(site, **{name: value})
        answer = said.pairs.get(name)
        if said.done and answer not in _REFUSALS:
            raise Failure(f"the illegal {name}={value} is answered with {answer} and the login goes on")

    return run


async def _twice(site: Site) -> None:
    said = await _login(site, ("ErrorRecoveryLevel", "0"))
    if said.done:
        raise Unusual("a key that stands twice in one text is accepted; section 6.2 calls it a protocol error")


async def _hexadecimal(site: Site) -> None:
    pairs = (await _done(site, MaxBurstLength="0x10000", FirstBurstLength="0x8000")).pairs
    answer = pairs.get("MaxBurstLength")
    require(answer is not None and int(answer, 0) <= 0x10000, f"MaxBurstLength=0x10000 is answered with {answer}")


async def _markers(site: Site) -> None:
    pairs = (await _done(site, ("IFMarker", "Yes"), ("OFMarker", "Yes"))).pairs
    for name in ("IFMarker", "OFMarker"):
        answer = pairs.get(name)
        require(answer != "Yes", f"{name}=Yes is agreed to; RFC 7145 and RFC 7143 have no markers")
        if answer is None:
            raise Unusual(f"{name} is left unanswered")


def _digest(name: str) -> Any:
    async def run(site: Site) -> None:
        pairs = (await _done(site, **{name: "CRC32C,None"})).pairs
        answer = pairs.get(name)
        require(answer in ("None", None), f"{name}=CRC32C,None is answered with {answer}; over iSER it must be None")

    return run


async def _rdma_extensions(site: Site) -> None:
    pairs = (await _done(site)).pairs
    answer = pairs.get("RDMAExtensions")
    require(answer == "Yes", f"RDMAExtensions=Yes is answered with {answer}")


async def _without_rdma(site: Site) -> None:
    said = await _login(site, RDMAExtensions=None)
    if said.done and said.pairs.get("RDMAExtensions") != "Yes":
        raise Unusual(
            "a login that never speaks of RDMAExtensions becomes an iSER session; section 6.3 wants it agreed"
        )


async def _rdma_no(site: Site) -> None:
    said = await _login(site, RDMAExtensions="No")
    if said.done:
        raise Unusual("RDMAExtensions=No becomes an iSER session all the same")


async def _portal_group(site: Site) -> None:
    async with site.talk() as talk:
        await talk.exchange([*talk.introduction(), *offers()])
        first = talk.said.pairs.get("TargetPortalGroupTag")
        require(first, "the first response does not declare the TargetPortalGroupTag")


def _declaration(name: str, value: str) -> Any:
    async def run(site: Site) -> None:
        answer = (await _done(site, **{name: value})).pairs.get(name)
        if answer == "NotUnderstood":
            raise Skipped(f"the target answers NotUnderstood to {name}={value}")

    return run


async def _unasked(site: Site) -> None:
    said = await _done(site)
    odd = {"MaxOutstandingUnexpectedPDUs", "MaxAHSLength", "iSERHelloRequired", "TaggedBufferForSolicitedDataOnly"}
    told = sorted(odd & set(said.pairs))
    if told:
        raise Unusual(f"the target sends {', '.join(told)} unasked, at which open-iscsi gives a login up")


CASES: Final = (
    Case("unknown-key", "an unknown key is NotUnderstood", "RFC 7143 6.2", _unknown_key),
    Case("key-order", "the order of keys does not matter", "RFC 7143 6.2", _order),
    Case("write-data-keys", "InitialR2T is OR, ImmediateData is AND", "RFC 7143 13.10, 13.11", _data_combinations),
    Case("max-burst", "MaxBurstLength is the lower value", "RFC 7143 13.13", _minimum("MaxBurstLength", 512, 16777215)),
    Case("first-burst", "FirstBurstLength is the lower value", "RFC 7143 13.14", _minimum("FirstBurstLength", 512)),
    Case("bursts", "FirstBurstLength not above MaxBurstLength", "RFC 7143 13.14", _first_burst),
    Case("max-connections", "MaxConnections is the lower value", "RFC 7143 13.2", _minimum("MaxConnections", 1, 4)),
    Case("max-r2t", "MaxOutstandingR2T is the lower value", "RFC 7143 13.17", _minimum("MaxOutstandingR2T", 1, 16)),
    Case(
        "recovery-level",
        "ErrorRecoveryLevel is the lower value",
        "RFC 7143 13.20",
        _minimum("ErrorRecoveryLevel", 0, 2),
    ),
    Case(
        "target-receive",
        "TargetRecvDataSegmentLength is the lower value",
        "RFC 7145 6.4",
        _minimum("TargetRecvDataSegmentLength", 512, 8192),
    ),
    Case(
        "initiator-receive",
        "InitiatorRecvDataSegmentLength is the lower value",
        "RFC 7145 6.5",
        _minimum("InitiatorRecvDataSegmentLength", 512, 8192),
    ),
    Case("bad-boolean", "InitialR2T=Maybe does not count", "RFC 7143 6.2", _bad_value("InitialR2T", "Maybe")),
    Case("bad-number", "MaxBurstLength=many does not count", "RFC 7143 6.1", _bad_value("MaxBurstLength", "many")),
    Case("out-of-range", "MaxBurstLength=1 does not count", "RFC 7143 13.13", _bad_value("MaxBurstLength", "1")),
    Case("negative", "MaxConnections=-1 does not count", "RFC 7143 6.1", _bad_value("MaxConnections", "-1")),
    Case("hexadecimal", "numbers may be hexadecimal", "RFC 7143 6.1", _hexadecimal),
    Case("key-twice", "a key twice in one text", "RFC 7143 6.2", _twice),
    Case("markers", "no markers", "RFC 7143 13.25", _markers),
    Case("header-digest", "HeaderDigest is None over iSER", "RFC 7145 6.1", _digest("HeaderDigest")),
    Case("data-digest", "DataDigest is None over iSER", "RFC 7145 6.1", _digest("DataDigest")),
    Case("rdma-extensions", "RDMAExtensions=Yes is agreed to", "RFC 7145 6.3", _rdma_extensions),
    Case("without-rdma-extensions", "no iSER session without RDMAExtensions", "RFC 7145 6.3", _without_rdma),
    Case("rdma-extensions-no", "no iSER session with RDMAExtensions=No", "RFC 7145 6.3", _rdma_no),
    Case("portal-group-tag", "TargetPortalGroupTag in the first response", "RFC 7143 13.9", _portal_group),
    Case(
        "unexpected-pdus",
        "MaxOutstandingUnexpectedPDUs",
        "RFC 7145 6.7",
        _declaration("MaxOutstandingUnexpectedPDUs", "8"),
    ),
    Case("max-ahs-length", "MaxAHSLength", "RFC 7145 6.8", _declaration("MaxAHSLength", "256")),
    Case("hello-required", "iSERHelloRequired=No", "RFC 7145 6.10", _declaration("iSERHelloRequired", "No")),
    Case("unasked-keys", "no key of RFC 7145 that was not offered", "RFC 7145 6", _unasked),
)
