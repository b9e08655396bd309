"""Text exchanges in full-feature phase: discovery, long answers, and what else an initiator may say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import LocalProtocolError, NegotiationError, PduError, RemoteProtocolError, TextError
from iser.login import (
    ALL_TARGETS,
    MAX_DISCOVERY_LENGTH,
    NegotiatedParameters,
    TargetAddress,
    TargetRecord,
    TextRequester,
    TextResponder,
    decode_text,
    encode_text,
    parse_targets,
    target_pairs,
)
from iser.login.text import MAX_TEXT_LENGTH, Pair
from iser.pdu.bhs import IMMEDIATE, RESERVED_TAG, Bhs, NopOut, TextRequest, TextResponse
from iser.pdu.codec import Pdu
from tests.login.peers import over_the_wire

DISK = TargetRecord("iqn.2026-11.test:disk", (TargetAddress("10.0.0.1", 3260, 1), TargetAddress("fe80::1", 3261, 2)))
TAPE = TargetRecord("iqn.2026-11.test:tape")
MANY = [TargetRecord(f"iqn.2026-11.test:disk{i:05}", (TargetAddress("10.0.0.1", 3260, 1),)) for i in range(400)]
DISCOVERY = NegotiatedParameters(session_type="Discovery")
NORMAL = NegotiatedParameters(target_name=DISK.name)


def responder(
    records: list[TargetRecord] | None = None, params: NegotiatedParameters = DISCOVERY, **kwargs: Any
) -> TextResponder:
    known = [DISK, TAPE] if records is None else records

    def targets(name: str) -> list[TargetRecord]:
        return [record for record in known if name in (ALL_TARGETS, record.name)]

    return TextResponder(params, targets, **({"transport": "iser"} | kwargs))


def run(requester: TextRequester, target: TextResponder) -> int:
    exchanges = 0
    request: Pdu | None = requester.start()
    while request is not None:
        exchanges += 1
        request = requester.receive(over_the_wire(target.receive(over_the_wire(request))))
    return exchanges


def ask(pairs: list[Pair], target: TextResponder) -> list[Pair]:
    requester = TextRequester(pairs, itt=4)
    run(requester, target)
    return requester.pairs


def answer(flags: int, data: bytes = b"", **fields: int) -> Pdu:
    bhs = TextResponse(flags=flags, itt=4)
    return Pdu(bhs._replace(**fields), data)


def test_discovery_finds_all_targets() -> None:
    pairs = ask([("SendTargets", "All")], responder())
    assert parse_targets(pairs) == [DISK, TAPE]
    assert ("TargetAddress", "[fe80::1]:3261,2") in pairs


def test_discovery_of_one_target() -> None:
    assert parse_targets(ask([("SendTargets", TAPE.name)], responder())) == [TAPE]
    assert parse_targets(ask([("SendTargets", "iqn.none")], responder())) == []


def test_a_normal_session_learns_of_its_own_target_only() -> None:
    target = responder(params=NORMAL)
    assert parse_targets(ask([("SendTargets", "")], target)) == [DISK]
    assert parse_targets(ask([("SendTargets", DISK.name)], target)) == [DISK]
    for other in ("All", TAPE.name):
        assert ask([("SendTargets", other)], target) == [("SendTargets", "Reject")]
    with pytest.raises(TextError):
        parse_targets([("SendTargets", "Reject")])


def test_a_discovery_session_has_no_target_of_its_own() -> None:
    assert ask([("SendTargets", "")], responder()) == [("SendTargets", "Reject")]


def test_a_long_list_comes_in_parts() -> None:
    requester = TextRequester([("SendTargets", "All")], itt=4)
    assert run(requester, responder(MANY)) == 4
    assert parse_targets(requester.pairs) == MANY


def test_no_part_is_longer_than_the_initiator_can_take() -> None:
    params = NegotiatedParameters(session_type="Discovery", max_recv_data_segment_length_initiator=512)
    for target, most in ((responder(MANY, params), 512), (responder(MANY, max_data=128), 128)):
        first = target.receive(Pdu(TextRequest(itt=4), b"SendTargets=All\0"))
        assert (len(first.data), first.bhs.flags) == (most, 0x40)


def test_long_requests_go_in_parts() -> None:
    requester = TextRequester([(f"X-org.k{i}", "v" * 100) for i in range(20)], itt=4, max_data=512)
    assert run(requester, responder()) > 4
    assert requester.pairs == [(f"X-org.k{i}", "NotUnderstood") for i in range(20)]


def test_requests_may_be_immediate() -> None:
    assert TextRequester([], itt=1, immediate=True).start().bhs.opcode == 0x04 | IMMEDIATE


def test_most_keys_are_not_for_the_full_feature_phase() -> None:
    pairs = [("MaxBurstLength", "1024"), ("X-org.x", "1"), ("Colour", "Reject"), ("TargetAlias", "x")]
    assert ask(pairs, responder()) == [
        ("MaxBurstLength", "Reject"),
        ("X-org.x", "NotUnderstood"),
        ("TargetAlias", "Reject"),
    ]


def test_receive_length_and_alias_may_be_declared_anew() -> None:
    target = responder(params=NORMAL, transport="tcp")
    assert ask([("MaxRecvDataSegmentLength", "1024"), ("InitiatorAlias", "me")], target) == []
    assert target.params.max_recv_data_segment_length_initiator == 1024
    assert target.params.initiator_alias == "me"


def test_receive_length_means_nothing_in_an_iser_session() -> None:
    target = responder(params=NORMAL)
    ask([("MaxRecvDataSegmentLength", "1024")], target)
    assert target.params.max_recv_data_segment_length_initiator == 8192


def test_an_illegal_length_is_refused() -> None:
    with pytest.raises(NegotiationError, match="MaxRecvDataSegmentLength"):
        ask([("MaxRecvDataSegmentLength", "1")], responder())


def test_an_exchange_that_pauses_is_taken_up_by_its_tag() -> None:
    target = responder()
    first = target.receive(Pdu(TextRequest(flags=0, itt=4), b"SendTargets=All\0")).bhs
    assert isinstance(first, TextResponse)
    assert first.flags == 0  # the initiator has more to say, so the target may not end it
    assert first.ttt != RESERVED_TAG
    last = target.receive(Pdu(TextRequest(itt=4, ttt=first.ttt))).bhs
    assert isinstance(last, TextResponse)
    assert (last.flags, last.ttt) == (0x80, RESERVED_TAG)


def test_a_new_exchange_drops_the_old_one() -> None:
    target = responder(MANY)
    target.receive(Pdu(TextRequest(itt=4), b"SendTargets=All\0"))
    fresh = target.receive(Pdu(TextRequest(itt=5), b"SendTargets=iqn.none\0"))
    assert (fresh.bhs.flags, fresh.data) == (0x80, b"")


@pytest.mark.parametrize(
    ("bhs", "data"),
    [
        (NopOut(), b""),
        (TextRequest(flags=0xC0), b""),
        (TextRequest(ttt=77), b""),
        (TextRequest(), b"x"),
        (TextRequest(), b"A=1\0A=2\0"),
    ],
)
def test_faults_of_the_initiator(bhs: Bhs, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        responder().receive(Pdu(bhs, data))


def test_text_between_parts_is_refused() -> None:
    target = responder(MANY)
    first = target.receive(Pdu(TextRequest(itt=4), b"SendTargets=All\0")).bhs
    assert isinstance(first, TextResponse)
    with pytest.raises(PduError):
        target.receive(Pdu(TextRequest(itt=4, ttt=first.ttt), b"SendTargets=All\0"))


def test_limit_of_a_request() -> None:
    target = responder()
    ttt = RESERVED_TAG
    for _ in range(MAX_TEXT_LENGTH // 8192):
        bhs = target.receive(Pdu(TextRequest(flags=0x40, itt=4, ttt=ttt), bytes(8192))).bhs
        assert isinstance(bhs, TextResponse)
        ttt = bhs.ttt
    with pytest.raises(TextError):
        target.receive(Pdu(TextRequest(flags=0x40, itt=4, ttt=ttt), b"x"))


def test_limit_of_an_answer() -> None:
    requester = TextRequester([], itt=4)
    requester.start()
    for _ in range(MAX_DISCOVERY_LENGTH // 8192):
        assert requester.receive(answer(0x40, bytes(8192), ttt=1)) is not None
    with pytest.raises(TextError):
        requester.receive(answer(0x40, b"x", ttt=1))


def test_a_target_that_sends_empty_parts_for_ever_is_given_up() -> None:
    requester = TextRequester([("SendTargets", "All")], itt=4)
    requester.start()

    def listen() -> None:
        while requester.receive(answer(0x40, ttt=1)) is not None:
            pass

    with pytest.raises(TextError):
        listen()


@pytest.mark.parametrize(
    "pdu",
    [
        Pdu(NopOut()),
        answer(0x80, itt=5),
        answer(0xC0),
        answer(0x00),  # goes on, without a tag
        answer(0x80, b"A"),
    ],
)
def test_faults_of_the_target(pdu: Pdu) -> None:
    requester = TextRequester([], itt=4)
    requester.start()
    with pytest.raises(RemoteProtocolError):
        requester.receive(pdu)


def test_a_target_hears_us_out() -> None:
    for pdu in (answer(0x80), answer(0x00, b"A=1\0", ttt=1)):
        requester = TextRequester([("X-org.k", "v" * 1000)], itt=4, max_data=512)
        requester.start()
        with pytest.raises(PduError):
            requester.receive(pdu)


def test_calls_out_of_turn() -> None:
    requester = TextRequester([], itt=4)
    with pytest.raises(LocalProtocolError):
        _ = requester.pairs
    requester.start()
    with pytest.raises(LocalProtocolError):
        requester.start()
    assert requester.receive(answer(0x80)) is None
    with pytest.raises(LocalProtocolError):
        requester.receive(answer(0x80))


@pytest.mark.parametrize(
    "pairs",
    [
        [("TargetAddress", "10.0.0.1")],
        [("TargetName", "disk")],
        [("TargetName", DISK.name), ("TargetAddress", "x:y")],
    ],
)
def test_malformed_answers_to_send_targets(pairs: list[Pair]) -> None:
    with pytest.raises(TextError):
        parse_targets(pairs)


hosts = st.ip_addresses().map(str) | st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)
addresses = st.builds(TargetAddress, hosts, st.integers(1, 65535), st.none() | st.integers(0, 65535))
records_of_any_kind = st.lists(
    st.builds(
        TargetRecord,
        st.from_regex(r"iqn\.[a-z0-9.:-]{1,40}", fullmatch=True),
        st.lists(addresses, max_size=3).map(tuple),
    ),
    max_size=5,
)


@given(records_of_any_kind)
def test_records_come_back_as_they_went(records: list[TargetRecord]) -> None:
    assert parse_targets(decode_text(encode_text(target_pairs(records)), unique=False)) == records


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 255),
            st.sampled_from([4, 5]),
            st.sampled_from([RESERVED_TAG, 1, 2, 3]),
            st.sampled_from([b"", b"SendTargets=All\0", b"A=1\0", b"A"]) | st.binary(max_size=20),
        ),
        max_size=6,
    )
)
def test_nonsense_is_answered_or_refused(requests: list[tuple[int, int, int, bytes]]) -> None:
    target = responder(MANY)
    for flags, itt, ttt, data in requests:
        try:
            bhs = over_the_wire(target.receive(Pdu(TextRequest(flags=flags, itt=itt, ttt=ttt), data))).bhs
        except (RemoteProtocolError, NegotiationError):
            continue
        assert isinstance(bhs, TextResponse)
        assert (bhs.ttt == RESERVED_TAG) == bool(bhs.flags & 0x80)
