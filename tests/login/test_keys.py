"""The table of keys."""

from __future__ import annotations

import pytest

from iser.errors import NegotiationError
from iser.login.keys import KEYS, Kind, Phase, Role, format_value
from iser.login.params import NegotiatedParameters

RFC_DEFAULTS = {
    "MaxConnections": "1",
    "InitialR2T": "Yes",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "8192",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "20",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
    "SessionType": "Normal",
    "HeaderDigest": "None",
    "DataDigest": "None",
    "TaskReporting": "RFC3720",
    "iSCSIProtocolLevel": "1",
    "RDMAExtensions": "No",
    "TargetRecvDataSegmentLength": "8192",
    "InitiatorRecvDataSegmentLength": "8192",
    "MaxOutstandingUnexpectedPDUs": "0",
    "MaxAHSLength": "256",
    "TaggedBufferForSolicitedDataOnly": "No",
    "iSERHelloRequired": "No",
}


@pytest.mark.parametrize(("name", "default"), RFC_DEFAULTS.items())
def test_defaults_of_the_table_and_of_the_result_are_the_rfcs(name: str, default: str) -> None:
    key = KEYS[name]
    params = NegotiatedParameters()
    field = f"{key.field}_target" if key.by_sender else key.field
    assert key.default == default
    if name == "TaggedBufferForSolicitedDataOnly":
        # What is deployed behaves as if it had said Yes: silence must not read as the RFC's default.
        assert getattr(params, field) is None
    else:
        assert format_value(getattr(params, field)) == default


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MaxConnections", "0"),
        ("MaxConnections", "65536"),
        ("MaxBurstLength", "511"),
        ("MaxBurstLength", "16777216"),
        ("DefaultTime2Wait", "3601"),
        ("ErrorRecoveryLevel", "3"),
        ("InitialR2T", "yes"),
        ("InitialR2T", ""),
        ("MaxOutstandingUnexpectedPDUs", "1"),
        ("SessionType", "Other"),
        ("InitiatorAlias", "a" * 256),
        ("MaxBurstLength", "many"),
    ],
)
def test_illegal_values(name: str, text: str) -> None:
    with pytest.raises(NegotiationError, match=name):
        KEYS[name].parse(text)


def test_legal_values() -> None:
    assert KEYS["MaxBurstLength"].parse("0x200") == 512
    assert KEYS["MaxOutstandingUnexpectedPDUs"].parse("0") == 0
    assert KEYS["MaxOutstandingUnexpectedPDUs"].parse("2") == 2
    assert KEYS["ImmediateData"].parse("No") is False


def test_only_the_initiator_declares_what_rfc_7145_gives_to_it() -> None:
    assert KEYS["TaggedBufferForSolicitedDataOnly"].senders == Role.INITIATOR
    assert KEYS["iSERHelloRequired"].senders == Role.INITIATOR


def test_operational_keys_stay_out_of_the_security_stage() -> None:
    negotiated = [key for key in KEYS.values() if not key.declared and key.name != "AuthMethod"]
    assert all(Phase.SECURITY not in key.phases for key in negotiated)
    assert KEYS["IFMarkInt"].kind is Kind.OBSOLETE
