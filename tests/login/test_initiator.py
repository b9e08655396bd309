"""The initiator's machine: every way in, every fault of a target, and nonsense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import LocalProtocolError, LoginError, NegotiationError, PduError, RemoteProtocolError, UsageError
from iser.login import Admission, InitiatorLogin, InitiatorLoginConfig, LoginStatus, NegotiatedParameters, Wishes
from iser.login.stages import MAX_LOGIN_PDUS
from iser.login.text import Pair, encode_text
from iser.pdu.bhs import IMMEDIATE, Bhs, LoginRequest, LoginResponse, NopIn, Reject
from iser.pdu.codec import Pdu
from tests.login.peers import (
    INITIATOR,
    ISID,
    TARGET,
    TSIH,
    Directory,
    Password,
    PasswordTarget,
    flags_of,
    initiator_config,
    response,
    run,
    target_login,
    text_of,
)

FINISH = 0x87  # T, CSG 1, NSG 3


def started(**kwargs: Any) -> InitiatorLogin:
    login = InitiatorLogin(initiator_config(**kwargs))
    login.start()
    return login


def agreed(**changes: str) -> list[Pair]:
    """The answers of a target that agrees to all that a plain iSER login offers."""
    offers = text_of(InitiatorLogin(initiator_config()).start())
    answers = {
        name: value for name, value in offers.items() if name not in ("InitiatorName", "TargetName", "SessionType")
    }
    return list((answers | changes).items())


@pytest.mark.parametrize("transport", ["iser", "tcp"])
@pytest.mark.parametrize("discovery", [False, True])
@pytest.mark.parametrize("security_stage", [False, True])
def test_every_kind_of_login_succeeds(transport: Any, discovery: bool, security_stage: bool) -> None:
    config = initiator_config(transport=transport, discovery=discovery, security_stage=security_stage)
    initiator, target = InitiatorLogin(config), target_login(transport)
    assert len(run(initiator, target)) == 1 + security_stage
    assert initiator.result.params == target.result.params
    assert initiator.result.params.rdma_extensions == (transport == "iser" and not discovery)
    assert initiator.result.stat_sn == target.result.stat_sn == security_stage


def test_the_first_request_says_who_we_are_and_asks_for_all() -> None:
    login = InitiatorLogin(initiator_config(initiator_alias="me"))
    pdu = login.start()
    bhs = pdu.bhs
    assert isinstance(bhs, LoginRequest)
    assert (bhs.opcode, bhs.flags, bhs.isid, bhs.tsih, bhs.cmd_sn) == (0x03 | IMMEDIATE, FINISH, ISID, 0, 1)
    assert list(text_of(pdu))[:5] == ["InitiatorName", "InitiatorAlias", "TargetName", "SessionType", "RDMAExtensions"]
    assert login.request_is_final


def test_the_result_has_what_a_session_needs() -> None:
    login = started()
    assert login.receive(response(FINISH, agreed(), max_cmd_sn=64)) is None
    result = login.result
    assert (result.tsih, result.cmd_sn, result.stat_sn, result.exp_stat_sn, result.max_cmd_sn) == (TSIH, 1, 6, 6, 64)
    assert (result.target_name, result.initiator_name, result.new_session) == (TARGET, INITIATOR, True)


def test_buffers_are_due_before_the_request_that_may_be_the_last() -> None:
    login = InitiatorLogin(initiator_config(security_stage=True))
    login.start()
    assert not login.request_is_final
    login.receive(response(0x81, [("AuthMethod", "None")]))
    assert login.request_is_final


def test_lio_leaves_out_forced_answers_and_makes_offers_of_its_own() -> None:
    login = started(wishes=Wishes(max_outstanding_r2t=None))
    left_out = ("InitialR2T", "DataPDUInOrder", "DataSequenceInOrder", "MaxOutstandingR2T")
    answers = [pair for pair in agreed() if pair[0] not in left_out]
    again = login.receive(response(0x04, [*answers, ("MaxOutstandingR2T", "4"), ("IFMarker", "No")]))
    assert again is not None
    assert (flags_of(again), text_of(again)) == (FINISH, {"MaxOutstandingR2T": "1", "IFMarker": "No"})
    assert login.request_is_final
    assert login.receive(response(FINISH)) is None
    assert login.result.params.initial_r2t


def test_tgt_has_its_own_idea_of_command_numbers() -> None:
    login = started()
    login.receive(response(FINISH, agreed(ImmediateData="No"), exp_cmd_sn=2, max_cmd_sn=1))
    assert (login.result.cmd_sn, login.result.max_cmd_sn) == (1, 1)
    assert not login.result.params.immediate_data


def test_a_target_may_lead_from_the_security_stage_to_the_operational_one() -> None:
    login = InitiatorLogin(initiator_config(security_stage=True))
    login.start()
    again = login.receive(response(0x81))  # no AuthMethod: None was all we offered
    assert again is not None
    assert flags_of(again) == FINISH


def test_rdma_extensions_no_is_fine_in_discovery() -> None:
    login = started(discovery=True)
    offers = text_of(InitiatorLogin(initiator_config(discovery=True)).start())
    answers = {k: v for k, v in offers.items() if k not in ("InitiatorName", "SessionType")}
    assert login.receive(response(FINISH, [*answers.items(), ("RDMAExtensions", "No")], tsih=0)) is None
    assert login.result.discovery
    assert login.result.tsih == 0


def test_an_offer_that_wants_what_we_want_may_come_with_the_end() -> None:
    login = started()
    assert login.receive(response(FINISH, [*agreed(), ("TaskReporting", "RFC3720"), ("X-org.x", "1")])) is None


def test_sequence_numbers_follow_the_target() -> None:
    login = started()
    again = login.receive(response(0x04, [("HeaderDigest", "None")], stat_sn=0xFFFFFFFF))
    assert again is not None
    assert isinstance(again.bhs, LoginRequest)
    assert (again.bhs.exp_stat_sn, again.bhs.cmd_sn, again.data) == (0, 1, b"")


def test_text_over_several_responses() -> None:
    login = started()
    whole = encode_text(agreed())
    again = login.receive(response(0x44)._replace(data=whole[:33]))
    assert again is not None
    assert (flags_of(again), again.data, login.request_is_final) == (0x04, b"", False)
    assert login.receive(response(0x04)._replace(data=whole[33:])) is not None
    assert login.request_is_final
    assert login.receive(response(FINISH)) is None


def test_a_long_request_goes_over_several_requests() -> None:
    class Talkative:
        methods = ("None", *(f"X-org.example.{i:04}" for i in range(428)))

        def step(self, pairs: Any) -> Any:
            raise AssertionError("the target chose None")

    initiator, target = InitiatorLogin(initiator_config(), Talkative()), target_login()
    exchanges = run(initiator, target)
    assert [flags_of(sent) for sent, _ in exchanges] == [0x40, 0x81, FINISH]
    assert len(exchanges[0][0].data) == 8192
    assert initiator.result.params == target.result.params


def test_long_answers_of_the_target_are_fetched() -> None:
    wishes, alias = Wishes(), "é" * 127
    initiator = InitiatorLogin(initiator_config(wishes=wishes, initiator_alias=alias))
    target = target_login(directory=Directory(Admission(target_alias=alias)))
    run(initiator, target)
    assert initiator.result.params.target_alias == alias
    assert target.result.params.initiator_alias == alias


def test_a_later_connection_does_not_speak_of_the_session() -> None:
    session = NegotiatedParameters(rdma_extensions=True, initiator_name=INITIATOR, target_name=TARGET)
    config = InitiatorLoginConfig(
        initiator_name=INITIATOR, isid=ISID, target_name=TARGET, tsih=7, cid=2, session_params=session
    )
    initiator = InitiatorLogin(config)
    target = target_login(directory=Directory(Admission(session_params=session)))
    sent, _ = run(initiator, target)[0]
    assert not {"SessionType", "RDMAExtensions", "ImmediateData"} & set(text_of(sent))
    assert (initiator.result.tsih, initiator.result.new_session) == (7, False)
    assert initiator.result.params.rdma_extensions


@pytest.mark.parametrize(
    ("pdu", "error"),
    [
        (Pdu(NopIn()), PduError),
        (Pdu(Reject()), PduError),
        (response(FINISH, agreed(), itt=5), PduError),
        (response(FINISH, agreed(), version_active=1), PduError),
        (response(0x83, agreed()), PduError),  # another stage
        (response(0x85, agreed()), PduError),  # to where we are
        (response(0xC7, agreed()), PduError),
        (response(FINISH, agreed(), tsih=0), PduError),
        (response(FINISH)._replace(data=b"x"), RemoteProtocolError),
        (response(FINISH)._replace(data=bytes(8193)), RemoteProtocolError),
        (response(FINISH), NegotiationError),  # answers nothing
        (response(FINISH, agreed(RDMAExtensions="No")), NegotiationError),
        (response(FINISH, agreed(RDMAExtensions="NotUnderstood")), NegotiationError),
        (response(FINISH, agreed(MaxBurstLength="262145")), NegotiationError),
        (response(FINISH, agreed(MaxBurstLength="Yes")), NegotiationError),
        (response(FINISH, agreed(InitialR2T="No")), NegotiationError),
        (response(FINISH, agreed(HeaderDigest="CRC32C")), NegotiationError),
        (response(FINISH, agreed(InitiatorName="iqn.x")), NegotiationError),
        (response(FINISH, [*agreed(), ("TaskReporting", "FastAbort")]), NegotiationError),  # offer with T
    ],
)
def test_faults_of_the_target(pdu: Pdu, error: type[Exception]) -> None:
    login = started()
    with pytest.raises(error):
        login.receive(pdu)
    assert login.failed
    with pytest.raises(LocalProtocolError):
        login.receive(pdu)


def test_a_stage_is_not_ended_unasked() -> None:
    login = started()
    login.receive(response(0x44)._replace(data=b"A"))
    with pytest.raises(PduError, match="unasked"):
        login.receive(response(FINISH)._replace(data=b"=\0"))


def test_authentication_cannot_be_cut_short() -> None:
    class Never:
        methods = ("CHAP",)

        def step(self, pairs: Any) -> Any:
            return [("CHAP_A", "5")], not pairs

    login = InitiatorLogin(initiator_config(), Never())
    login.start()
    assert login.receive(response(0x00, [("AuthMethod", "CHAP")])) is not None
    with pytest.raises(PduError):
        login.receive(response(0x81))


@pytest.mark.parametrize("status", [LoginStatus.NOT_FOUND, LoginStatus.OUT_OF_RESOURCES, 0x02EE, 0x04FF])
def test_a_refusal_carries_its_status(status: int) -> None:
    login = started()
    with pytest.raises(LoginError, match=f"{TARGET}.*{status:04x}") as caught:
        login.receive(response(0x00, status_class=status >> 8, status_detail=status & 0xFF))
    assert caught.value.status_class << 8 | caught.value.status_detail == status
    assert login.failed


@pytest.mark.parametrize("text", [b"", b"TargetAddress=:\0", b"garbage"])
def test_a_redirection_without_a_good_address_is_a_refusal(text: bytes) -> None:
    login = started()
    with pytest.raises(LoginError, match="0101"):
        login.receive(response(0, status_class=1, status_detail=1)._replace(data=text))
    assert login.redirect is None


def test_limit_of_exchanges() -> None:
    login = started()
    for _ in range(MAX_LOGIN_PDUS - 1):
        assert login.receive(response(0x04)) is not None
    with pytest.raises(PduError, match=str(MAX_LOGIN_PDUS)):
        login.receive(response(0x04))
    assert login.break_off() is None


def test_a_login_that_the_target_waits_in_is_broken_off_by_a_request_that_it_refuses() -> None:
    login = InitiatorLogin(initiator_config(), Password("secret", mutual=True))
    target = target_login(auth=PasswordTarget("secret", proof="another"))
    with pytest.raises(LoginError):
        run(login, target)
    request = login.break_off()
    assert request is not None
    assert target.receive(request).bhs.status_class == 2  # type: ignore[union-attr]  # a Login Response
    assert target.failed
    assert login.break_off() is None


@pytest.mark.parametrize(
    "pdu",
    [
        response(0x04, status_class=2, status_detail=1),  # it has refused by itself
        response(FINISH),  # it takes the login for complete
        Pdu(NopIn()),
    ],
)
def test_a_login_that_the_target_does_not_wait_in_is_not_broken_off(pdu: Pdu) -> None:
    login = started()
    assert login.break_off() is None
    with pytest.raises((LoginError, NegotiationError, PduError)):
        login.receive(pdu)
    assert login.break_off() is None


def test_a_login_that_the_target_refuses_at_its_second_request_is_not_broken_off() -> None:
    login = InitiatorLogin(initiator_config(), Password("wrong"))
    with pytest.raises(LoginError):
        run(login, target_login(auth=PasswordTarget("secret")))
    assert login.break_off() is None


@pytest.mark.parametrize(
    "call",
    [
        lambda login: login.receive(response(FINISH)),
        lambda login: login.result,
        lambda login: (login.start(), login.start()),
    ],
)
def test_calls_out_of_turn(call: Callable[[InitiatorLogin], object]) -> None:
    with pytest.raises(LocalProtocolError):
        call(InitiatorLogin(initiator_config()))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"initiator_name": "me"}, "initiator_name"),
        ({"target_name": ""}, "target_name"),
        ({"target_name": "disk"}, "target_name"),
        ({"isid": b"1"}, "isid"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change: dict[str, Any], match: str) -> None:
    good: dict[str, Any] = {"initiator_name": INITIATOR, "isid": ISID, "target_name": TARGET}
    with pytest.raises(UsageError, match=match):
        InitiatorLoginConfig(**(good | change))


bhs_of_any_kind: st.SearchStrategy[Bhs] = st.builds(
    LoginResponse,
    flags=st.sampled_from([0x04, 0x87, 0x44, 0x81, 0x00]) | st.integers(0, 255),
    version_active=st.sampled_from([0, 0, 0, 1]),
    isid=st.just(ISID),
    tsih=st.integers(0, 2),
    itt=st.sampled_from([0, 0, 0, 1]),
    stat_sn=st.integers(0, 2**32 - 1),
    status_class=st.sampled_from([0, 0, 0, 0, 1, 2, 9]),
    status_detail=st.integers(0, 2),
) | st.just(NopIn())
pieces = st.sampled_from(
    [*(encode_text([pair]) for pair in agreed()), b"AuthMethod=None\0", b"X-org.x=1\0", b"IFMarker="]
)
answer_data = st.just(encode_text(agreed())) | st.lists(pieces | st.binary(max_size=20), max_size=5).map(b"".join)


@settings(max_examples=250)
@given(st.booleans(), st.lists(st.tuples(bhs_of_any_kind, answer_data), min_size=1, max_size=6))
def test_nonsense_ends_in_a_documented_error(secure: bool, pdus: list[tuple[Bhs, bytes]]) -> None:
    login = started(security_stage=secure)
    for bhs, data in pdus:
        try:
            again = login.receive(Pdu(bhs, data))
        except (LoginError, RemoteProtocolError, NegotiationError):
            assert login.failed
            return
        assert (again is None) == login.done
        if login.done:
            assert login.result.params.rdma_extensions
            return
