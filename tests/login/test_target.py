"""The target's machine: every way in, every status, and nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import BackendError, LocalProtocolError, LoginError, ResourceError
from iser.login import (
    Admission,
    InitiatorLogin,
    LoginStatus,
    NegotiatedParameters,
    TargetLogin,
    TargetLoginConfig,
    Wishes,
    encode_text,
    login_error,
)
from iser.login.stages import MAX_LOGIN_PDUS
from iser.login.text import MAX_TEXT_LENGTH, Pair
from iser.pdu.bhs import IMMEDIATE, Bhs, LoginRequest, LoginResponse, NopOut, ScsiCommand, TextRequest
from iser.pdu.codec import Pdu
from tests.login.peers import (
    INITIATOR,
    ISID,
    TARGET,
    TSIH,
    Directory,
    flags_of,
    initiator_config,
    over_the_wire,
    request,
    run,
    status_of,
    target_login,
    text_of,
)

WHO: list[Pair] = [("InitiatorName", INITIATOR), ("TargetName", TARGET), ("SessionType", "Normal")]
RDMA: Pair = ("RDMAExtensions", "Yes")
FINISH = 0x87  # T, CSG 1, NSG 3


def test_one_exchange_is_enough() -> None:
    target = target_login()
    answer = target.receive(request(FINISH, [*WHO, RDMA], itt=9))
    bhs = answer.bhs
    assert isinstance(bhs, LoginResponse)
    assert (bhs.flags, status_of(answer), bhs.tsih, bhs.isid, bhs.itt) == (FINISH, 0, TSIH, ISID, 9)
    assert (bhs.stat_sn, bhs.exp_cmd_sn, bhs.max_cmd_sn) == (0xFFFFFFFF, 1, 8)
    assert text_of(answer) == {"TargetPortalGroupTag": "1", "RDMAExtensions": "Yes"}
    assert target.done


def test_the_result_has_what_a_session_needs() -> None:
    target = target_login()
    target.receive(request(FINISH, [*WHO, RDMA], cmd_sn=0xFFFFFFFF, exp_stat_sn=3))
    result = target.result
    assert (result.initiator_name, result.target_name, result.session_type) == (INITIATOR, TARGET, "Normal")
    assert (result.isid, result.tsih, result.cid, result.new_session) == (ISID, TSIH, 1, True)
    assert (result.cmd_sn, result.max_cmd_sn, result.stat_sn, result.exp_stat_sn) == (0xFFFFFFFF, 6, 0, 3)
    assert result.params.rdma_extensions
    assert not result.discovery


def test_a_result_is_not_there_before_its_time() -> None:
    target = target_login()
    with pytest.raises(LocalProtocolError):
        _ = target.result
    target.receive(request(FINISH, [*WHO, RDMA]))
    with pytest.raises(LocalProtocolError):
        target.receive(request(FINISH))


def test_the_session_type_is_normal_if_nothing_is_said() -> None:
    target = target_login()
    target.receive(request(FINISH, [*WHO[:2], RDMA]))
    assert target.result.session_type == "Normal"


def test_discovery_needs_no_target_name_and_no_rdma_extensions() -> None:
    target = target_login()
    answer = target.receive(request(FINISH, [WHO[0], ("SessionType", "Discovery"), RDMA]))
    assert text_of(answer) == {"RDMAExtensions": "No", "MaxRecvDataSegmentLength": "8192"}
    assert target.result.discovery


def test_the_security_stage_then_the_operational_one() -> None:
    target = target_login()
    first = target.receive(request(0x81, [*WHO, ("AuthMethod", "CHAP,None")]))
    assert (flags_of(first), text_of(first)["AuthMethod"]) == (0x81, "None")
    assert first.bhs.data_segment_length == 0  # filled in when encoded
    target.receive(request(FINISH, [RDMA]))
    assert target.done


def test_an_empty_security_stage_is_enough_for_method_none() -> None:
    target = target_login("tcp")
    assert flags_of(target.receive(request(0x00, WHO))) == 0x00
    assert flags_of(target.receive(request(0x81))) == 0x81
    assert flags_of(target.receive(request(FINISH))) == FINISH


def test_the_operational_stage_may_be_jumped_over_tcp() -> None:
    target = target_login("tcp")
    assert flags_of(target.receive(request(0x83, [*WHO, ("AuthMethod", "None")]))) == 0x83
    assert target.result.params == NegotiatedParameters(
        initiator_name=INITIATOR, target_name=TARGET, target_portal_group_tag=1
    )


@pytest.mark.parametrize("transport", ["iser", "tcp"])
def test_it_may_not_be_jumped_where_the_defaults_will_not_do(transport: Any) -> None:
    target = target_login(transport, wishes=Wishes(immediate_data=False))
    assert status_of(target.receive(request(0x83, WHO))) == LoginStatus.MISSING_PARAMETER


def test_the_target_holds_back_until_its_own_offers_are_answered() -> None:
    target = target_login(wishes=Wishes(immediate_data=False))
    first = target.receive(request(FINISH, [*WHO, RDMA]))
    assert flags_of(first) == 0x04
    assert text_of(first)["ImmediateData"] == "No"
    target.receive(request(FINISH, [("ImmediateData", "No")]))
    assert not target.result.params.immediate_data


def test_a_later_connection_joins_its_session() -> None:
    session = NegotiatedParameters(rdma_extensions=True, initiator_name=INITIATOR, target_name=TARGET)
    directory = Directory(Admission(session_params=session))
    target = target_login(directory=directory)
    answer = target.receive(request(FINISH, WHO[:2], tsih=99, cid=2))
    assert status_of(answer) == 0
    assert (target.result.tsih, target.result.cid, target.result.new_session) == (99, 2, False)
    assert directory.asked[0].tsih == 99


def test_the_directory_sees_who_asks() -> None:
    directory = Directory()
    target_login(directory=directory).receive(request(0x04, [*WHO, ("InitiatorAlias", "me")]))
    asked = directory.asked[0]
    assert (asked.initiator_name, asked.initiator_alias, asked.isid, asked.tsih, asked.cid) == (
        INITIATOR,
        "me",
        ISID,
        0,
        1,
    )
    assert (asked.target_name, asked.session_type, asked.transport) == (TARGET, "Normal", "iser")


@pytest.mark.parametrize(
    ("pdu", "status"),
    [
        (request(FINISH, [*WHO, ("RDMAExtensions", "No")]), LoginStatus.INITIATOR_ERROR),
        (request(FINISH, WHO), LoginStatus.MISSING_PARAMETER),
        (request(0x83, WHO), LoginStatus.MISSING_PARAMETER),
        (request(FINISH, [RDMA]), LoginStatus.MISSING_PARAMETER),
        (request(FINISH, WHO[:1]), LoginStatus.MISSING_PARAMETER),
        (request(FINISH, WHO[1:]), LoginStatus.MISSING_PARAMETER),
        (request(FINISH, [("InitiatorName", "me"), *WHO[1:]]), LoginStatus.INITIATOR_ERROR),
        (request(FINISH, [WHO[0], ("TargetName", "iqn.other")]), LoginStatus.NOT_FOUND),
        (request(FINISH, [WHO[0], ("TargetName", "x" * 300)]), LoginStatus.NOT_FOUND),
        (request(FINISH, [WHO[0], ("SessionType", "Boot")]), LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
        (
            request(FINISH, [WHO[0], ("SessionType", "Discovery")], tsih=5),
            LoginStatus.CANNOT_INCLUDE_IN_SESSION,
        ),
        (request(0x81, [*WHO, ("AuthMethod", "CHAP,SRP")]), LoginStatus.AUTHENTICATION_FAILURE),
        (request(FINISH, [*WHO, RDMA], version_min=1, version_max=2), LoginStatus.UNSUPPORTED_VERSION),
        (request(0xC7, WHO), LoginStatus.INITIATOR_ERROR),  # T and C
        (request(0x08, WHO), LoginStatus.INITIATOR_ERROR),  # CSG 2
        (request(0x86, WHO), LoginStatus.INITIATOR_ERROR),  # NSG 2
        (request(0x84, WHO), LoginStatus.INITIATOR_ERROR),  # back to stage 0
        (request(0x85, WHO), LoginStatus.INITIATOR_ERROR),  # to where we are
        (request(0x0C, WHO), LoginStatus.INITIATOR_ERROR),  # as if logged in
        (request(0x00, [*WHO, ("ImmediateData", "Yes")]), LoginStatus.INITIATOR_ERROR),
        (request(0x04, [*WHO, ("TargetAlias", "a")]), LoginStatus.INITIATOR_ERROR),
        (request(0x04)._replace(data=b"InitiatorName"), LoginStatus.INITIATOR_ERROR),
        (request(0x04)._replace(data=bytes(8193)), LoginStatus.INITIATOR_ERROR),
        (Pdu(NopOut(itt=3)), LoginStatus.INVALID_DURING_LOGIN),
        (Pdu(ScsiCommand(itt=3)), LoginStatus.INVALID_DURING_LOGIN),
        (Pdu(TextRequest(itt=3)), LoginStatus.INVALID_DURING_LOGIN),
    ],
)
def test_statuses_of_bad_first_requests(pdu: Pdu, status: LoginStatus) -> None:
    target = target_login()
    answer = target.receive(pdu)
    assert status_of(answer) == status
    assert (answer.bhs.flags & 0xC0, answer.bhs.itt) == (0, pdu.bhs.itt)
    assert target.failed
    assert target.failure is not None
    assert target.failure.status_class << 8 | target.failure.status_detail == status
    assert not target.done
    assert status_of(target.receive(request(FINISH, [*WHO, RDMA]))) == status  # and so it stays


@pytest.mark.parametrize(
    "status",
    [
        LoginStatus.AUTHORIZATION_FAILURE,
        LoginStatus.NOT_FOUND,
        LoginStatus.TARGET_REMOVED,
        LoginStatus.TOO_MANY_CONNECTIONS,
        LoginStatus.CANNOT_INCLUDE_IN_SESSION,
        LoginStatus.SESSION_TYPE_NOT_SUPPORTED,
        LoginStatus.SESSION_DOES_NOT_EXIST,
        LoginStatus.TARGET_ERROR,
        LoginStatus.SERVICE_UNAVAILABLE,
        LoginStatus.OUT_OF_RESOURCES,
    ],
)
def test_the_directorys_refusals_reach_the_initiator(status: LoginStatus) -> None:
    target = target_login(directory=Directory(login_error(status, "no")))
    with pytest.raises(LoginError) as caught:
        run(InitiatorLogin(initiator_config()), target)
    assert caught.value.status_class << 8 | caught.value.status_detail == status


def test_no_more_sessions_is_0302() -> None:
    directory = Directory(no_tsih=login_error(LoginStatus.OUT_OF_RESOURCES, "65535 sessions"))
    answer = target_login(directory=directory).receive(request(FINISH, [*WHO, RDMA]))
    assert status_of(answer) == LoginStatus.OUT_OF_RESOURCES


@pytest.mark.parametrize(
    ("error", "status"),
    [(ResourceError("full"), LoginStatus.OUT_OF_RESOURCES), (BackendError("broken"), LoginStatus.TARGET_ERROR)],
)
def test_faults_of_our_own_side_are_class_3(error: Exception, status: LoginStatus) -> None:
    class Broken(Directory):
        def admit(self, request: Any) -> Admission:
            raise error

    assert status_of(target_login(directory=Broken()).receive(request(FINISH, WHO))) == status


@pytest.mark.parametrize("change", [{"isid": bytes(6)}, {"tsih": 1}, {"itt": 1}, {"cid": 2}])
def test_a_login_stays_one_login(change: dict[str, Any]) -> None:
    target = target_login()
    target.receive(request(0x04, [*WHO, RDMA]))
    assert status_of(target.receive(request(FINISH, **change))) == LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize("flags", [0x00, 0x81])
def test_there_is_no_way_back_to_the_security_stage(flags: int) -> None:
    target = target_login()
    target.receive(request(0x04, [*WHO, RDMA]))
    assert status_of(target.receive(request(flags))) == LoginStatus.INITIATOR_ERROR


@pytest.mark.parametrize(
    "pairs", [[("SessionType", "Discovery")], [("InitiatorName", "iqn.x")], [("TargetName", "iqn.x")], [RDMA]]
)
def test_who_and_what_are_settled_once(pairs: list[Pair]) -> None:
    target = target_login()
    target.receive(request(0x04, [*WHO[:2], RDMA]))
    assert status_of(target.receive(request(FINISH, pairs))) == LoginStatus.INITIATOR_ERROR


def test_a_method_is_chosen_once() -> None:
    target = target_login()
    target.receive(request(0x00, [*WHO, ("AuthMethod", "None")]))
    assert status_of(target.receive(request(0x00, [("AuthMethod", "None")]))) == LoginStatus.INITIATOR_ERROR


def test_the_target_name_may_not_come_late_in_discovery() -> None:
    target = target_login()
    target.receive(request(0x04, [WHO[0], ("SessionType", "Discovery")]))
    assert status_of(target.receive(request(0x04, [("TargetName", TARGET)]))) == LoginStatus.INITIATOR_ERROR


def test_text_over_several_requests() -> None:
    whole = encode_text([*WHO, RDMA, ("X-org.example", "x" * 8000)])
    target = target_login()
    assert flags_of(target.receive(Pdu(request(0x44).bhs, whole[:1000]))) == 0x04
    assert flags_of(target.receive(Pdu(request(0x44).bhs, whole[1000:8000]))) == 0x04
    assert flags_of(target.receive(Pdu(request(FINISH).bhs, whole[8000:]))) == FINISH
    assert target.done


def test_limit_of_requests() -> None:
    target = target_login()
    target.receive(request(0x04, [*WHO, RDMA]))
    for _ in range(MAX_LOGIN_PDUS - 1):
        assert status_of(target.receive(request(0x04))) == 0
    assert status_of(target.receive(request(0x04))) == LoginStatus.INITIATOR_ERROR


def test_limit_of_text() -> None:
    target = target_login()
    part = request(0x44)._replace(data=bytes(8192))
    for _ in range(MAX_TEXT_LENGTH // 8192):
        assert status_of(target.receive(part)) == 0
    assert status_of(target.receive(part)) == LoginStatus.INITIATOR_ERROR


def test_a_long_answer_goes_over_several_responses() -> None:
    target = target_login(directory=Directory(Admission(target_alias="a" * 250)))
    odd = [(f"X-org.{i:03}", "1") for i in range(400)]
    first = target.receive(request(FINISH, [*WHO, RDMA, *odd]))
    assert (flags_of(first), len(first.data)) == (0x44, 8192)
    assert not target.done
    second = target.receive(request(0x04))
    assert flags_of(second) == 0x04
    third = target.receive(request(FINISH))
    assert (flags_of(third), third.data) == (FINISH, b"")
    assert target.done


def test_our_text_is_not_to_be_interrupted() -> None:
    target = target_login()
    target.receive(request(FINISH, [*WHO, RDMA, *((f"X-org.{i:03}", "1") for i in range(400))]))
    assert status_of(target.receive(request(0x04, [("ImmediateData", "Yes")]))) == LoginStatus.INITIATOR_ERROR


def test_what_open_iscsi_and_libiscsi_cannot_take_is_not_said() -> None:
    target = target_login()
    answer = target.receive(request(FINISH, [*WHO, RDMA, ("MaxRecvDataSegmentLength", "8192"), ("InitialR2T", "No")]))
    said = text_of(answer)
    assert "MaxRecvDataSegmentLength" not in said
    assert "MaxOutstandingUnexpectedPDUs" not in said
    assert said["InitialR2T"] == "Yes"


login_requests = st.builds(
    LoginRequest,
    opcode=st.sampled_from([0x03, 0x43]),
    flags=st.sampled_from([0x00, 0x04, 0x81, 0x83, 0x87, 0x44, 0x40]) | st.integers(0, 255),
    version_max=st.integers(0, 1),
    version_min=st.integers(0, 1),
    isid=st.just(ISID) | st.binary(min_size=6, max_size=6),
    tsih=st.sampled_from([0, 0, 0, 1]),
    itt=st.just(0),
    cid=st.just(1),
    cmd_sn=st.integers(0, 2**32 - 1),
)
pieces = st.sampled_from(
    [
        *(encode_text([pair]) for pair in (*WHO, RDMA, ("AuthMethod", "None"), ("SessionType", "Discovery"))),
        b"ImmediateData=No\0",
        b"MaxBurstLength=0\0",
        b"X-org.x=1\0",
        b"HeaderDigest=",
    ]
)
login_data = st.lists(pieces | st.binary(max_size=30), max_size=6, unique=True).map(b"".join)
others: st.SearchStrategy[Bhs] = st.sampled_from([NopOut(), TextRequest(), ScsiCommand(), LoginResponse()])


@settings(max_examples=250)
@given(st.lists(st.tuples(login_requests | login_requests | others, login_data), min_size=1, max_size=6))
def test_nonsense_is_always_answered(pdus: list[tuple[Bhs, bytes]]) -> None:
    target = TargetLogin(TargetLoginConfig(), None, Directory())
    for bhs, data in pdus:
        answer = over_the_wire(target.receive(Pdu(bhs, data)))
        assert isinstance(answer.bhs, LoginResponse)
        assert target.failed == bool(status_of(answer))
        if target.done:
            assert target.result.params.rdma_extensions != target.result.discovery
            return


def test_login_requests_are_taken_with_and_without_the_immediate_bit() -> None:
    for opcode in (0x03, 0x03 | IMMEDIATE):
        target = target_login()
        target.receive(request(FINISH, [*WHO, RDMA], opcode=opcode))
        assert target.done
