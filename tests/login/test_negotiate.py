"""Negotiation of keys, each side against a script and both against each other."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import NegotiationError
from iser.login import InitiatorLogin, NegotiatedParameters, Transport, Wishes
from iser.login.keys import KEYS, Key, Kind, Phase, Role, Value
from iser.login.negotiate import Negotiation, accept, check_answer
from iser.login.params import WISH_KEYS
from iser.login.text import Pair
from tests.login.peers import initiator_config, run, target_login

OPERATIONAL = Phase.OPERATIONAL
# A target accepts the default of these, whatever its wish, rather than prolong the login.
ADVICE = ("default_time2wait", "default_time2retain", "iscsi_protocol_level")
PEERS_OWN = ("max_outstanding_unexpected_pdus", "max_ahs_length")  # each side has the other's


def target(transport: Transport = "iser", wishes: Wishes | None = None, *, discovery: bool = False) -> Negotiation:
    return Negotiation(Role.TARGET, transport, wishes or Wishes(), discovery=discovery)


def initiator(transport: Transport = "iser", wishes: Wishes | None = None, *, discovery: bool = False) -> Negotiation:
    return Negotiation(Role.INITIATOR, transport, wishes or Wishes(), discovery=discovery)


def wish_values(key: Key) -> st.SearchStrategy[Any]:
    if key.kind is Kind.LIST:
        return st.lists(st.sampled_from(key.values), min_size=1, unique=True).map(tuple)
    if key.kind in (Kind.AND, Kind.OR, Kind.BOOLEAN):
        return st.booleans() | st.none()
    low = 2 if key.or_zero else key.low
    return st.integers(low, key.high) | st.sampled_from((low, key.high)) | st.none()


@st.composite
def wishes_of_any_kind(draw: st.DrawFn) -> Wishes:
    fields = {name: draw(wish_values(key)) for name, key in WISH_KEYS.items()}
    first, longest = fields["first_burst_length"], fields["max_burst_length"]
    if first is not None and longest is not None and first > longest:
        fields["first_burst_length"], fields["max_burst_length"] = longest, first
    return Wishes(**fields)


@settings(max_examples=100)
@given(wishes_of_any_kind(), wishes_of_any_kind(), st.sampled_from(["iser", "tcp"]), st.booleans(), st.booleans())
def test_both_sides_come_to_the_same_values(
    ours: Wishes, theirs: Wishes, transport: Transport, discovery: bool, secure: bool
) -> None:
    config = initiator_config(transport=transport, discovery=discovery, wishes=ours, security_stage=secure)
    one, other = InitiatorLogin(config), target_login(transport, wishes=theirs)
    assert len(run(one, other)) <= 4
    mine, its = asdict(one.result.params), asdict(other.result.params)
    for name in PEERS_OWN:
        del mine[name], its[name]
    assert mine == its
    assert one.result.params.first_burst_length <= one.result.params.max_burst_length


@settings(max_examples=100)
@given(wishes_of_any_kind(), wishes_of_any_kind())
def test_nobody_gets_more_than_it_wishes_for(ours: Wishes, theirs: Wishes) -> None:
    one, other = InitiatorLogin(initiator_config(wishes=ours)), target_login(wishes=theirs)
    run(one, other)
    for wishes in (ours, theirs):
        for name, key in WISH_KEYS.items():
            wish = wishes.get(name)
            if wish is None or key.declared or isinstance(wish, tuple) or (wishes is theirs and name in ADVICE):
                continue
            got: Value = getattr(other.result.params, name)
            assert not isinstance(got, str)
            assert not isinstance(wish, str)
            if key.kind in (Kind.MINIMUM, Kind.AND):
                assert got <= wish, name
            else:
                assert got >= wish, name


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*KEYS, "X-org.example", "NoSuchKey"]),
            st.sampled_from(
                [
                    "Yes",
                    "No",
                    "None",
                    "CRC32C,None",
                    "0",
                    "1",
                    "8192",
                    "99999999",
                    "Reject",
                    "Irrelevant",
                    "NotUnderstood",
                ]
            ),
        ),
        unique_by=lambda pair: pair[0],
    ),
    st.sampled_from([Role.INITIATOR, Role.TARGET]),
    st.booleans(),
)
def test_any_text_is_answered_or_refused(pairs: list[Pair], role: Role, discovery: bool) -> None:
    side = Negotiation(role, "iser", Wishes(), discovery=discovery)
    if role is Role.INITIATOR:
        side.offers()
    try:
        side.receive(pairs, OPERATIONAL)
        side.close()
    except NegotiationError:
        return
    assert isinstance(side.params, NegotiatedParameters)


@pytest.mark.parametrize(
    ("name", "offer", "wish", "outcome"),
    [
        ("ImmediateData", True, False, False),
        ("ImmediateData", True, True, True),
        ("InitialR2T", False, True, True),
        ("InitialR2T", False, False, False),
        ("MaxBurstLength", 4096, 1024, 1024),
        ("DefaultTime2Wait", 5, 2, 5),
        ("HeaderDigest", "CRC32C,None", ("None", "CRC32C"), "CRC32C"),
        ("HeaderDigest", "CRC32C", ("None",), None),
    ],
)
def test_result_functions(name: str, offer: Value, wish: Value | tuple[str, ...], outcome: Value | None) -> None:
    assert accept(KEYS[name], offer, wish) == outcome


@pytest.mark.parametrize(
    ("name", "offered", "answer"),
    [
        ("ImmediateData", False, True),
        ("InitialR2T", True, False),
        ("MaxBurstLength", 4096, 8192),
        ("DefaultTime2Wait", 5, 2),
        ("HeaderDigest", ("None",), "CRC32C"),
    ],
)
def test_answers_that_cannot_follow_are_refused(name: str, offered: Value | tuple[str, ...], answer: Value) -> None:
    with pytest.raises(NegotiationError, match=name):
        check_answer(KEYS[name], offered, answer)


def test_keys_nobody_knows_and_obsolete_ones() -> None:
    pairs = [("X-org.example", "1"), ("IFMarker", "Yes"), ("OFMarker", "No"), ("IFMarkInt", "1~2"), ("Colour", "red")]
    assert target().receive(pairs, OPERATIONAL) == [
        ("X-org.example", "NotUnderstood"),
        ("IFMarker", "No"),
        ("OFMarker", "No"),
        ("IFMarkInt", "Reject"),
        ("Colour", "NotUnderstood"),
    ]


def test_an_illegal_offer_is_rejected_and_changes_nothing() -> None:
    side = target()
    offers = [("MaxBurstLength", "1"), ("ImmediateData", "Maybe"), ("HeaderDigest", "CRC32C"), ("MaxConnections", "x")]
    assert {value for _, value in side.receive(offers, OPERATIONAL)} == {"Reject"}
    assert side.params == NegotiatedParameters()


@pytest.mark.parametrize("value", ["NotUnderstood", "Irrelevant", "Reject"])
def test_words_that_settle_nothing_leave_the_default(value: str) -> None:
    side = initiator("tcp", Wishes(max_burst_length=1024, first_burst_length=512))
    side.offers()
    assert side.receive([("MaxBurstLength", value), ("NoSuchKey", value)], OPERATIONAL) == []
    assert side.params.max_burst_length == 262144


def test_a_target_never_answers_max_recv_data_segment_length_in_an_iser_session() -> None:
    side = target()
    assert side.receive([("MaxRecvDataSegmentLength", "262144")], OPERATIONAL) == []
    assert side.declarations() == []
    assert side.params.max_recv_data_segment_length_initiator == 8192


@pytest.mark.parametrize(("transport", "discovery"), [("iser", True), ("tcp", True), ("tcp", False)])
def test_max_recv_data_segment_length_lives_elsewhere(transport: Transport, discovery: bool) -> None:
    side = target(transport, Wishes(max_recv_data_segment_length=65536), discovery=discovery)
    side.receive([("MaxRecvDataSegmentLength", "262144")], OPERATIONAL)
    assert side.declarations() == [("MaxRecvDataSegmentLength", "65536")]
    assert side.declarations() == []
    assert side.params.max_recv_data_segment_length_initiator == 262144
    assert side.params.max_recv_data_segment_length_target == 65536


def test_rdma_keys_over_tcp_are_irrelevant() -> None:
    pairs = [("TargetRecvDataSegmentLength", "8192"), ("RDMAExtensions", "Yes"), ("MaxAHSLength", "512")]
    assert target("tcp").receive(pairs, OPERATIONAL) == [
        ("RDMAExtensions", "No"),
        ("TargetRecvDataSegmentLength", "Irrelevant"),
    ]


def test_rdma_extensions_are_no_in_discovery_and_lengths_are_numbers() -> None:
    pairs = [("RDMAExtensions", "Yes"), ("TargetRecvDataSegmentLength", "262144"), ("MaxBurstLength", "262144")]
    answers = dict(target(discovery=True).receive(pairs, OPERATIONAL))
    assert answers == {"RDMAExtensions": "No", "TargetRecvDataSegmentLength": "8192", "MaxBurstLength": "262144"}


def test_an_initiator_offers_no_rdma_extensions_in_discovery() -> None:
    side = initiator(discovery=True)
    names = {name for name, _ in side.offers()}
    assert "RDMAExtensions" not in names
    assert "MaxRecvDataSegmentLength" in names


def test_rdma_extensions_come_first() -> None:
    assert initiator().offers()[0] == ("RDMAExtensions", "Yes")


def test_an_initiator_asks_for_all_that_lio_would_ask_for() -> None:
    names = {name for name, _ in initiator().offers()}
    assert names >= {
        "RDMAExtensions",
        "InitiatorRecvDataSegmentLength",
        "TargetRecvDataSegmentLength",
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "MaxConnections",
        "DataPDUInOrder",
        "DataSequenceInOrder",
        "DefaultTime2Wait",
        "DefaultTime2Retain",
        "ErrorRecoveryLevel",
    }
    assert not names & {"MaxRecvDataSegmentLength", "IFMarker", "MaxAHSLength", "MaxOutstandingUnexpectedPDUs"}


def test_forced_answers_may_be_left_out() -> None:
    side = initiator("tcp", Wishes(immediate_data=False))
    answers = [
        (name, value)
        for name, value in side.offers()
        if name not in ("InitialR2T", "ImmediateData", "DataPDUInOrder", "DataSequenceInOrder")
    ]
    side.receive(answers, OPERATIONAL)
    params = side.close()
    assert (params.initial_r2t, params.immediate_data, params.data_pdu_in_order) == (True, False, True)


def test_other_answers_may_not_be_left_out() -> None:
    side = initiator("tcp")
    side.receive([pair for pair in side.offers() if pair[0] != "MaxBurstLength"], OPERATIONAL)
    assert side.outstanding == {"MaxBurstLength"}
    with pytest.raises(NegotiationError, match="MaxBurstLength"):
        side.close()


def test_an_iser_session_without_rdma_extensions_is_refused() -> None:
    side = initiator()
    side.receive([(name, "No" if name == "RDMAExtensions" else value) for name, value in side.offers()], OPERATIONAL)
    with pytest.raises(NegotiationError, match="RDMAExtensions"):
        side.close()


def test_rfc_7145_declarations_follow_the_initiators() -> None:
    wishes = Wishes(max_ahs_length=512, max_outstanding_unexpected_pdus=16)
    side = target(wishes=wishes)
    assert side.receive([("RDMAExtensions", "Yes"), ("MaxAHSLength", "1024")], OPERATIONAL) == [
        ("RDMAExtensions", "Yes"),
        ("MaxAHSLength", "512"),
    ]
    assert side.params.max_ahs_length == 1024
    assert side.corrections() == []


def test_a_declaration_that_the_target_does_not_know_stays_ours() -> None:
    side = initiator(wishes=Wishes(tagged_buffer_for_solicited_data_only=True, max_ahs_length=512))
    side.offers()
    words = [("TaggedBufferForSolicitedDataOnly", "NotUnderstood"), ("MaxAHSLength", "NotUnderstood")]
    assert side.receive(words, OPERATIONAL) == []
    assert side.params.tagged_buffer_for_solicited_data_only


@pytest.mark.parametrize(
    ("pairs", "phase"),
    [
        ([("ImmediateData", "Yes")], Phase.SECURITY),
        ([("SendTargets", "All")], OPERATIONAL),
        ([("TargetAlias", "a")], OPERATIONAL),
        ([("TargetPortalGroupTag", "1")], OPERATIONAL),
        ([("AuthMethod", "None")], OPERATIONAL),
    ],
)
def test_keys_out_of_place(pairs: list[Pair], phase: Phase) -> None:
    with pytest.raises(NegotiationError):
        target().receive(pairs, phase)


def test_a_key_is_negotiated_once() -> None:
    side = target()
    side.receive([("MaxBurstLength", "1024")], OPERATIONAL)
    with pytest.raises(NegotiationError, match="second"):
        side.receive([("MaxBurstLength", "1024")], OPERATIONAL)


def test_a_declaration_may_be_said_again_but_not_changed() -> None:
    side = target()
    side.receive([("InitiatorAlias", "a")], Phase.SECURITY)
    assert side.receive([("InitiatorAlias", "a")], OPERATIONAL) == []
    with pytest.raises(NegotiationError, match="InitiatorAlias"):
        side.receive([("InitiatorAlias", "b")], OPERATIONAL)


def test_a_later_connection_has_the_sessions_values() -> None:
    session = NegotiatedParameters(
        rdma_extensions=True, max_burst_length=1024, first_burst_length=512, header_digest="CRC32C"
    )
    side = Negotiation(Role.TARGET, "iser", Wishes(), leading=False, base=session)
    assert side.params.header_digest == "None"  # that is each connection's own
    assert side.receive([("HeaderDigest", "None")], OPERATIONAL) == [("HeaderDigest", "None")]
    assert side.close().max_burst_length == 1024
    with pytest.raises(NegotiationError, match="leading"):
        side.receive([("MaxBurstLength", "512")], OPERATIONAL)


def test_a_target_offers_what_it_cannot_live_without() -> None:
    wishes = Wishes(immediate_data=False, max_burst_length=4096, first_burst_length=4096)
    side = target("tcp", wishes)
    side.receive([("MaxBurstLength", "1024")], OPERATIONAL)
    assert side.corrections() == [
        ("ImmediateData", "No"),
        ("FirstBurstLength", "4096"),
    ]
    assert side.corrections() == []


def test_the_wish_of_an_iser_target_for_digests_is_none() -> None:
    side = target(wishes=Wishes(header_digest=("CRC32C", "None")))
    assert side.receive([("HeaderDigest", "CRC32C,None")], OPERATIONAL) == [("HeaderDigest", "None")]


def test_a_first_burst_above_the_burst_is_answered_with_what_may_be() -> None:
    """RFC 7143 section 13.14, in whatever order the two come."""
    pairs = [("FirstBurstLength", "65536"), ("MaxBurstLength", "4096")]
    for text in (pairs, pairs[::-1]):
        assert dict(target("tcp").receive(text, OPERATIONAL)) == {"FirstBurstLength": "4096", "MaxBurstLength": "4096"}
    side = target("tcp")
    assert side.receive(pairs[1:], OPERATIONAL) == [("MaxBurstLength", "4096")]
    assert side.receive(pairs[:1], OPERATIONAL) == [("FirstBurstLength", "4096")]
