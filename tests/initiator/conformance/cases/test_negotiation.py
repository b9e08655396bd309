"""Each negotiation case finds the fault that it looks for."""

from __future__ import annotations

from typing import Any, Final

import pytest

from iser.errors import NegotiationError
from iser.login import Key, Kind, Negotiation, TargetLogin
from iser.login import negotiate as module
from iser.login import stages as text_module
from iser.login.text import decode_text
from tests.initiator.conformance.bad import FAIL, SKIP, WARN, Fault, check, wrap

__all__ = ["FAULTS"]


def _answers(change: Any) -> Any:
    """What the target answers to each key: ``change(name, offer, answer)``."""

    def make(old: Any) -> Any:
        def take(self: Negotiation, name: str, value: str, phase: Any) -> Any:
            return change(name, value, old(self, name, value, phase))

        return take

    return wrap(Negotiation, "_take", make)


def _one(name: str, answer: str | None) -> Any:
    return _answers(lambda key, _, right: answer if key == name else right)


def _more(old: Any) -> Any:
    def accept(key: Key, offer: Any, wish: Any) -> Any:
        if key.kind in (Kind.AND, Kind.OR) and key.name != "RDMAExtensions":
            return not offer
        return offer + 1 if key.kind is Kind.MINIMUM else old(key, offer, wish)

    return accept


def _anything(old: Any) -> Any:
    def parse(self: Key, text: str) -> Any:
        try:
            return old(self, text)
        except NegotiationError:
            return old(self, self.default)

    return parse


def _decimal(old: Any) -> Any:
    return lambda self, text: old(self, "16777215" if text.startswith("0x") else text)


def _ordered(old: Any) -> Any:
    def receive(self: Negotiation, pairs: Any, phase: Any) -> Any:
        pairs = list(pairs)
        backwards = pairs[-1:] == [("InitiatorName", dict(pairs).get("InitiatorName"))]
        return [(k, "No" if k == "ImmediateData" and backwards else v) for k, v in old(self, pairs, phase)]

    return receive


def _introduction(*more: tuple[str, str]) -> Any:
    def make(old: Any) -> Any:
        return staticmethod(lambda opened: [*(old(opened) if more else []), *more])

    return wrap(TargetLogin, "_introduction", make)


def _no_rdma_needed(old: Any) -> Any:
    def close(self: Negotiation) -> Any:
        self._iser = False
        return old(self)

    return close


FAULTS: Final = (
    Fault("unknown keys are ignored", _one("X-org.example.conformance", None), {"negotiation.unknown-key": FAIL}),
    Fault("the order matters", wrap(Negotiation, "receive", _ordered), {"negotiation.key-order": FAIL}),
    Fault("more than was offered", wrap(module, "accept", _more), {
        "negotiation.write-data-keys": FAIL, "negotiation.max-burst": FAIL, "negotiation.first-burst": FAIL,
        "negotiation.max-connections": FAIL, "negotiation.max-r2t": FAIL, "negotiation.recovery-level": FAIL,
        "negotiation.target-receive": FAIL, "negotiation.initiator-receive": FAIL,
    }),
    Fault("illegal values are taken", wrap(Key, "parse", _anything), {
        "negotiation.bad-boolean": FAIL, "negotiation.bad-number": FAIL, "negotiation.out-of-range": FAIL,
        "negotiation.negative": FAIL,
    }),
    Fault("no hexadecimal", wrap(Key, "parse", _decimal), {"negotiation.hexadecimal": FAIL}),
    Fault("bursts are not compared", _one("FirstBurstLength", "65536"), {"negotiation.bursts": WARN}),
    Fault(
        "a key may come twice",
        wrap(text_module, "decode_text", lambda _: lambda data: list(dict(decode_text(data, unique=False)).items())),
        {"negotiation.key-twice": WARN},
    ),
    Fault("markers", _one("IFMarker", "Yes"), {"negotiation.markers": FAIL}),
    Fault("digests", _answers(lambda key, _, right: "CRC32C" if key.endswith("Digest") else right), {
        "negotiation.header-digest": FAIL, "negotiation.data-digest": FAIL,
    }),
    Fault("RDMAExtensions unanswered", _one("RDMAExtensions", None), {"negotiation.rdma-extensions": FAIL}),
    Fault("any session is iSER's", wrap(Negotiation, "close", _no_rdma_needed), {
        "negotiation.without-rdma-extensions": WARN, "negotiation.rdma-extensions-no": WARN,
    }),
    Fault("no portal group tag", _introduction(), {"negotiation.portal-group-tag": FAIL}),
    Fault("keys that nobody asked for", _introduction(("MaxAHSLength", "256")), {"negotiation.unasked-keys": WARN}),
    Fault(
        "keys of RFC 7145 unknown",
        _answers(
            lambda key, _, right: "NotUnderstood" if key in ("MaxOutstandingUnexpectedPDUs", "MaxAHSLength") else right
        ),
        {"negotiation.unexpected-pdus": SKIP, "negotiation.max-ahs-length": SKIP},
    ),
    Fault("no Hello", _one("iSERHelloRequired", "NotUnderstood"), {"negotiation.hello-required": SKIP}),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)
