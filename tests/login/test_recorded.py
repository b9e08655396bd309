"""Logins recorded from real peers, against our machines."""

from __future__ import annotations

from iser.login import InitiatorLogin, InitiatorLoginConfig, Wishes, decode_text, encode_text
from iser.pdu.bhs import LoginResponse
from iser.pdu.codec import Pdu, decode
from tests.login.peers import Directory, flags_of, request, status_of, target_login, text_of

# Recorded from LIO over siw: its answer, padded to 4 bytes, to an initiator that offered FirstBurstLength=8192,
# InitialR2T=Yes and no MaxConnections, DataPDUInOrder or DataSequenceInOrder.  BHS, then text.
LIO_ANSWER = bytes.fromhex(
    "238700000000017380cafe000001000100000010000000009e3dae4d0000000100000001000000000000000000000000"
) + (
    b"HeaderDigest=None\0DataDigest=None\0MaxConnections=1\0TargetAlias=LIO Target\0TargetPortalGroupTag=1\0"
    b"ImmediateData=Yes\0MaxBurstLength=262144\0FirstBurstLength=8192\0DefaultTime2Wait=2\0DefaultTime2Retain=0\0"
    b"MaxOutstandingR2T=1\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0ErrorRecoveryLevel=0\0RDMAExtensions=Yes\0"
    b"InitiatorRecvDataSegmentLength=8192\0TargetRecvDataSegmentLength=8192\0\0"
)

# Recorded from open-iscsi with ib_iser over siw: the keys of its one login request, in their order.
OPEN_ISCSI = [
    ("InitiatorName", "iqn.2026-11.k:ini"),
    ("InitiatorAlias", "(none)"),
    ("TargetName", "iqn.2026-11.test:target"),
    ("SessionType", "Normal"),
    ("DefaultTime2Wait", "2"),
    ("DefaultTime2Retain", "0"),
    ("IFMarker", "No"),
    ("OFMarker", "No"),
    ("ErrorRecoveryLevel", "0"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("MaxBurstLength", "16776192"),
    ("FirstBurstLength", "262144"),
    ("MaxOutstandingR2T", "1"),
    ("MaxConnections", "1"),
    ("DataPDUInOrder", "Yes"),
    ("DataSequenceInOrder", "Yes"),
    ("InitiatorRecvDataSegmentLength", "262144"),
    ("TargetRecvDataSegmentLength", "8192"),
    ("RDMAExtensions", "Yes"),
]


def test_lio_lets_us_in_with_one_exchange() -> None:
    config = InitiatorLoginConfig(
        initiator_name="iqn.2026-11.k:ini",
        isid=bytes.fromhex("80cafe000001"),
        target_name="iqn.2026-11.lio:t1",
        itt=0x10,
        wishes=Wishes(first_burst_length=8192),
    )
    login = InitiatorLogin(config)
    login.start()
    assert login.receive(decode(LIO_ANSWER, max_data=8192)) is None
    result = login.result
    assert (result.tsih, result.exp_stat_sn, result.max_cmd_sn) == (1, 0x9E3DAE4E, 1)
    assert (result.params.target_alias, result.params.target_portal_group_tag) == ("LIO Target", 1)
    assert result.params.rdma_extensions
    assert result.params.initial_r2t  # forced, and left out
    assert result.params.first_burst_length == 8192


def test_open_iscsi_gets_in_with_one_exchange_and_hears_only_what_it_knows() -> None:
    target = target_login()
    answer = target.receive(request(0x87, OPEN_ISCSI))
    assert (flags_of(answer), status_of(answer)) == (0x87, 0)
    said = text_of(answer)
    assert set(said) - {"TargetPortalGroupTag"} <= {name for name, _ in OPEN_ISCSI}
    assert (said["InitialR2T"], said["MaxBurstLength"], said["FirstBurstLength"]) == ("Yes", "262144", "65536")
    assert (said["TargetRecvDataSegmentLength"], said["RDMAExtensions"], said["IFMarker"]) == ("8192", "Yes", "No")
    assert target.result.params.initiator_alias == "(none)"


def test_libiscsi_gets_numbers_in_discovery() -> None:
    """It offers the keys of a normal session in discovery too, and reads a word in place of a number as 0."""
    offers = [
        ("InitiatorName", "iqn.2026-11.k:ini"),
        ("SessionType", "Discovery"),
        ("HeaderDigest", "None,CRC32C"),
        ("RDMAExtensions", "Yes"),
        ("InitialR2T", "No"),
        ("MaxRecvDataSegmentLength", "8192"),
        ("InitiatorRecvDataSegmentLength", "8192"),
        ("TargetRecvDataSegmentLength", "8192"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "262144"),
    ]
    directory = Directory()
    target = target_login(directory=directory)
    said = text_of(target.receive(request(0x87, offers)))
    assert target.done
    assert (said["RDMAExtensions"], said["HeaderDigest"]) == ("No", "None")
    assert all(said[name].isdigit() for name in said if name.endswith("Length"))


def test_the_recorded_answer_survives_our_own_codec() -> None:
    pdu = decode(LIO_ANSWER, max_data=8192)
    assert isinstance(pdu.bhs, LoginResponse)
    pairs = decode_text(pdu.data)
    assert Pdu(pdu.bhs, encode_text(pairs)).data == bytes(pdu.data)
