"""The declarations themselves: what stands where, against PDUs that a Linux target sent or accepted."""

from __future__ import annotations

import pytest

from iser.pdu.bhs import (
    BHS_LENGTH,
    BHS_TYPES,
    IMMEDIATE,
    R2T,
    RESERVED_TAG,
    AsyncMessage,
    Bhs,
    DataIn,
    DataOut,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Reject,
    ScsiCommand,
    ScsiResponse,
    SnackRequest,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    TextResponse,
)
from iser.pdu.codec import decode_bhs, encode_bhs
from iser.pdu.const import OPCODE_MASK, Opcode

ISID = bytes.fromhex("80cafe000001")

# Recorded from LIO over siw; requests are what it accepted, responses what it sent.
RECORDED: dict[str, tuple[str, Bhs]] = {
    "login request": (
        "43870000 0000016a 80cafe000001 0000 00000010 00010000 00000001 00000000" + "00" * 16,
        LoginRequest(flags=0x87, data_segment_length=362, isid=ISID, itt=0x10, cid=1, cmd_sn=1),
    ),
    "login response": (
        "23870000 00000173 80cafe000001 0001 00000010 00000000 9e3dae4d 00000001 00000001" + "00" * 12,
        LoginResponse(
            flags=0x87,
            data_segment_length=0x173,
            isid=ISID,
            tsih=1,
            itt=0x10,
            stat_sn=0x9E3DAE4D,
            exp_cmd_sn=1,
            max_cmd_sn=1,
        ),
    ),
    "inquiry": (
        "01c10000 00000000 0000000000000000 00000011 00000024 00000001 9e3dae4e 12000000240000000000000000000000",
        ScsiCommand(
            flags=0xC1,
            itt=0x11,
            edtl=36,
            cmd_sn=1,
            exp_stat_sn=0x9E3DAE4E,
            cdb=bytes.fromhex("120000002400") + bytes(10),
        ),
    ),
    "inquiry response": (
        "21800000 00000000 0000000000000000 00000011 00000000 9e3dae4e 00000002 00000041" + "00" * 12,
        ScsiResponse(itt=0x11, stat_sn=0x9E3DAE4E, exp_cmd_sn=2, max_cmd_sn=0x41),
    ),
    "write with immediate data": (
        "01a10000 00000200 0000000000000000 00000015 00000200 00000005 9e3dae52 2a000000000000000100000000000000",
        ScsiCommand(
            flags=0xA1,
            data_segment_length=512,
            itt=0x15,
            edtl=512,
            cmd_sn=5,
            exp_stat_sn=0x9E3DAE52,
            cdb=bytes.fromhex("2a000000000000000100") + bytes(6),
        ),
    ),
    "check condition": (
        "21800002 00000062 0000000000000000 00000016 00000000 9e3dae53 00000007 00000046" + "00" * 12,
        ScsiResponse(status=2, data_segment_length=98, itt=0x16, stat_sn=0x9E3DAE53, exp_cmd_sn=7, max_cmd_sn=0x46),
    ),
    "ping": (
        "40800000 00000000 0000000000000000 00000017 ffffffff 00000007 9e3dae54" + "00" * 16,
        NopOut(opcode=IMMEDIATE, itt=0x17, cmd_sn=7, exp_stat_sn=0x9E3DAE54),
    ),
    "ping reply": (
        "20800000 00000000 ffffffffffffffff 00000017 ffffffff 9e3dae54 00000007 00000046" + "00" * 12,
        NopIn(lun=0xFFFFFFFFFFFFFFFF, itt=0x17, stat_sn=0x9E3DAE54, exp_cmd_sn=7, max_cmd_sn=0x46),
    ),
    "logout request": (
        "46800000 00000000 0000000000000000 00000018 00000000 00000007 9e3dae55" + "00" * 16,
        LogoutRequest(itt=0x18, cmd_sn=7, exp_stat_sn=0x9E3DAE55),
    ),
    "logout response": (
        "26800000 00000000 0000000000000000 00000018 00000000 9e3dae55 00000007 00000046" + "00" * 12,
        LogoutResponse(itt=0x18, stat_sn=0x9E3DAE55, exp_cmd_sn=7, max_cmd_sn=0x46),
    ),
}

# Written out by hand from the figures of RFC 7143 section 11: byte i of each field is 0x10 * (field) + i.
FIGURES: list[tuple[str, Bhs]] = [
    (
        "02850000 00000000 1011121314151617 20212223 30313233 40414243 50515253 60616263 70717273" + "00" * 8,
        TaskManagementRequest(
            flags=0x85,
            lun=0x1011121314151617,
            itt=0x20212223,
            referenced_task_tag=0x30313233,
            cmd_sn=0x40414243,
            exp_stat_sn=0x50515253,
            ref_cmd_sn=0x60616263,
            exp_data_sn=0x70717273,
        ),
    ),
    (
        "22800500 00000000 0000000000000000 20212223 00000000 40414243 50515253 60616263" + "00" * 12,
        TaskManagementResponse(
            response=5, itt=0x20212223, stat_sn=0x40414243, exp_cmd_sn=0x50515253, max_cmd_sn=0x60616263
        ),
    ),
    (
        "04c00000 00000010 1011121314151617 20212223 30313233 40414243 50515253" + "00" * 16,
        TextRequest(
            flags=0xC0,
            data_segment_length=16,
            lun=0x1011121314151617,
            itt=0x20212223,
            ttt=0x30313233,
            cmd_sn=0x40414243,
            exp_stat_sn=0x50515253,
        ),
    ),
    (
        "24400000 00000010 1011121314151617 20212223 30313233 40414243 50515253 60616263" + "00" * 12,
        TextResponse(
            flags=0x40,
            data_segment_length=16,
            lun=0x1011121314151617,
            itt=0x20212223,
            ttt=0x30313233,
            stat_sn=0x40414243,
            exp_cmd_sn=0x50515253,
            max_cmd_sn=0x60616263,
        ),
    ),
    (
        "05800000 00000200 1011121314151617 20212223 30313233 00000000 50515253 00000000 70717273 80818283 00000000",
        DataOut(
            flags=0x80,
            data_segment_length=512,
            lun=0x1011121314151617,
            itt=0x20212223,
            ttt=0x30313233,
            exp_stat_sn=0x50515253,
            data_sn=0x70717273,
            buffer_offset=0x80818283,
        ),
    ),
    (
        "25810002 00000200 1011121314151617 20212223 30313233 40414243 50515253 60616263 70717273 80818283 90919293",
        DataIn(
            flags=0x81,
            status=2,
            data_segment_length=512,
            lun=0x1011121314151617,
            itt=0x20212223,
            ttt=0x30313233,
            stat_sn=0x40414243,
            exp_cmd_sn=0x50515253,
            max_cmd_sn=0x60616263,
            data_sn=0x70717273,
            buffer_offset=0x80818283,
            residual=0x90919293,
        ),
    ),
    (
        "31800000 00000000 1011121314151617 20212223 30313233 40414243 50515253 60616263 70717273 80818283 90919293",
        R2T(
            lun=0x1011121314151617,
            itt=0x20212223,
            ttt=0x30313233,
            stat_sn=0x40414243,
            exp_cmd_sn=0x50515253,
            max_cmd_sn=0x60616263,
            r2t_sn=0x70717273,
            buffer_offset=0x80818283,
            desired_data_transfer_length=0x90919293,
        ),
    ),
    (
        "10810000 00000000 1011121314151617 20212223 30313233 00000000 50515253 0000000000000000 80818283 90919293",
        SnackRequest(
            flags=0x81,
            lun=0x1011121314151617,
            itt=0x20212223,
            ttt=0x30313233,
            exp_stat_sn=0x50515253,
            beg_run=0x80818283,
            run_length=0x90919293,
        ),
    ),
    (
        "32800000 00000000 1011121314151617 ffffffff 00000000 40414243 50515253 60616263 01 02 7273 8081 8283 00000000",
        AsyncMessage(
            lun=0x1011121314151617,
            stat_sn=0x40414243,
            exp_cmd_sn=0x50515253,
            max_cmd_sn=0x60616263,
            async_event=1,
            async_vcode=2,
            parameter1=0x7273,
            parameter2=0x8081,
            parameter3=0x8283,
        ),
    ),
    (
        "3f800900 00000030 0000000000000000 ffffffff 00000000 40414243 50515253 60616263 70717273" + "00" * 8,
        Reject(
            reason=9,
            data_segment_length=48,
            stat_sn=0x40414243,
            exp_cmd_sn=0x50515253,
            max_cmd_sn=0x60616263,
            data_sn=0x70717273,
        ),
    ),
    (
        "21940103 00000000 0000000000000000 20212223 30313233 40414243 50515253 60616263 70717273 80818283 90919293",
        ScsiResponse(
            flags=0x94,
            response=1,
            status=3,
            itt=0x20212223,
            snack_tag=0x30313233,
            stat_sn=0x40414243,
            exp_cmd_sn=0x50515253,
            max_cmd_sn=0x60616263,
            exp_data_sn=0x70717273,
            bidi_residual=0x80818283,
            residual=0x90919293,
        ),
    ),
    (
        "26800100 00000000 0000000000000000 20212223 00000000 40414243 50515253 60616263 00000000 80818283 00000000",
        LogoutResponse(
            response=1,
            itt=0x20212223,
            stat_sn=0x40414243,
            exp_cmd_sn=0x50515253,
            max_cmd_sn=0x60616263,
            time2wait=0x8081,
            time2retain=0x8283,
        ),
    ),
    (
        "23000203 00000000 80cafe000001 0001 20212223 00000000 40414243 50515253 60616263 0203 0000" + "00" * 8,
        LoginResponse(
            version_max=2,
            version_active=3,
            isid=ISID,
            tsih=1,
            itt=0x20212223,
            stat_sn=0x40414243,
            exp_cmd_sn=0x50515253,
            max_cmd_sn=0x60616263,
            status_class=2,
            status_detail=3,
        ),
    ),
]


@pytest.mark.parametrize(("wire", "bhs"), RECORDED.values(), ids=RECORDED)
def test_recorded_headers(wire: str, bhs: Bhs) -> None:
    assert decode_bhs(bytes.fromhex(wire)) == bhs
    assert encode_bhs(bhs) == bytes.fromhex(wire)


@pytest.mark.parametrize(("wire", "bhs"), FIGURES, ids=[type(bhs).__name__ for _, bhs in FIGURES])
def test_headers_of_the_figures(wire: str, bhs: Bhs) -> None:
    assert decode_bhs(bytes.fromhex(wire)) == bhs
    assert encode_bhs(bhs) == bytes.fromhex(wire)


def test_every_opcode_has_its_class() -> None:
    assert set(BHS_TYPES) == set(Opcode)
    for opcode, cls in BHS_TYPES.items():
        assert cls().opcode & OPCODE_MASK == opcode
        assert cls.__name__.upper() == Opcode(opcode).name.replace("_", "")


def test_a_tag_that_is_not_given_is_the_reserved_one() -> None:
    assert NopIn().ttt == TextRequest().ttt == NopOut().ttt == RESERVED_TAG
    assert len(encode_bhs(NopIn())) == BHS_LENGTH
