"""What is not allowed: sense data, Rejects, closed connections, and never a hang (RFC 7143 sections 7, 11.17)."""

from __future__ import annotations

from typing import Any, Final

from initiator.conformance.case import Case
from initiator.conformance.probe import Answer
from initiator.conformance.site import Session, Site
from initiator.conformance.verdict import Failure, Unusual, require
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    FINAL,
    HELLO,
    IMMEDIATE,
    R2T,
    RESERVED_TAG,
    Hello,
    LoginRequest,
    LogoutReason,
    LogoutRequest,
    LogoutResponse,
    NopOut,
    Pdu,
    Reject,
    ScsiCommand,
    ScsiResponse,
    SnackRequest,
    build_header,
    encode,
)
from iser.pdu.const import RejectReason
from iser.scsi.cdb import inquiry, read_blocks, test_unit_ready
from iser.scsi.const import SenseKey
from iser.scsi.lun import encode_lun
from iser.scsi.sense import decode_sense

__all__ = ["CASES"]

_NO_LUN: Final = 200
_MAX_SEGMENT: Final = 128  # bytes of data that Linux and libiscsi have room for
_CHECK_CONDITION: Final = 2
_SILENT: Final = 2.0  # seconds after which a PDU that nobody answers counts as dropped


def _check_sense(answer: Answer, what: str, *codes: tuple[int, int, int]) -> None:
    require(answer.bhs.status == _CHECK_CONDITION, f"{what} ends in status {answer.bhs.status:#04x}")
    require(answer.segment >= 2 and answer.sense, f"{what} ends in CHECK CONDITION without sense data")
    require(answer.segment <= _MAX_SEGMENT, f"{what} has {answer.segment} bytes of sense; initiators have room for 128")
    require(len(answer.sense) <= answer.segment - 2, f"{what}: SenseLength is beyond the data segment")
    kind = answer.sense[0] & 0x7F
    require(kind in (0x70, 0x72), f"{what}: the sense has response code {kind:#04x}")
    sense = decode_sense(answer.sense)
    found = (sense.key, sense.asc, sense.ascq)
    if found not in codes:
        names = " or ".join("/".join(f"{part:02x}" for part in code) for code in codes)
        message = f"{what} has the sense {sense.key:02x}/{sense.asc:02x}/{sense.ascq:02x}; usual is {names}"
        raise (Unusual if sense.key == codes[0][0] else Failure)(message)


async def _unknown_command(site: Site) -> None:
    async with site.session() as session:
        answer = await session.command(bytes((0xFF,)) + bytes(15))
        _check_sense(answer, "an unknown operation code", (SenseKey.ILLEGAL_REQUEST, 0x20, 0))
        await session.good(test_unit_ready())


async def _out_of_range(site: Site) -> None:
    async with site.session() as session:
        for lba, blocks in ((site.blocks, 1), (site.blocks - 1, 2)):
            region = session.read_region(blocks * site.block_size)
            answer = await session.command(read_blocks(lba, blocks), read=region)
            _check_sense(answer, f"a read of {blocks} blocks at LBA {lba}", (SenseKey.ILLEGAL_REQUEST, 0x21, 0))
        await session.good(test_unit_ready())


async def _no_lun(site: Site) -> None:
    async with site.session() as session:
        answer = await session.command(test_unit_ready(), lun=encode_lun(_NO_LUN))
        _check_sense(answer, f"TEST UNIT READY of LUN {_NO_LUN}", (SenseKey.ILLEGAL_REQUEST, 0x25, 0))
        region = session.read_region(36)
        answer = await session.command(inquiry(36), read=region, lun=encode_lun(_NO_LUN))
        require(not answer.bhs.status, f"INQUIRY of LUN {_NO_LUN} ends in status {answer.bhs.status:#04x}")
        require(answer.data[0] == 0x7F, f"INQUIRY of LUN {_NO_LUN} has the first byte {answer.data[0]:#04x}, not 7fh")


async def _bad_page(site: Site) -> None:
    async with site.session() as session:
        answer = await session.command(inquiry(255, 0xF7), read=session.read_region(255))
        _check_sense(answer, "INQUIRY of an unknown page", (SenseKey.ILLEGAL_REQUEST, 0x24, 0))


async def _judge(session: Session, what: str, sent: bytes, *reasons: int) -> None:
    """A Reject with one of ``reasons`` or a closed connection is right; silence and another reason are Unusual."""
    arrival = await session.anything(min(_SILENT, session.patience))
    if arrival is None:
        if session.end:
            return
        await session.alive()
        raise Unusual(f"{what} is dropped without an answer")
    bhs = arrival.bhs
    if isinstance(bhs, ScsiResponse):
        require(bhs.status, f"{what} ends in GOOD")
        return
    require(isinstance(bhs, Reject), f"{what} is answered with a {type(bhs).__name__}")
    if isinstance(bhs, Reject):
        require(bhs.itt == RESERVED_TAG, f"the Reject of {what} has ITT {bhs.itt:#x}")
        require(bytes(arrival.pdu.data[:48]) == sent[:48], f"the Reject of {what} does not carry the header of the PDU")
        if bhs.reason not in reasons:
            raise Unusual(f"{what} is rejected with reason {bhs.reason:#04x}; usual is {reasons[0]:#04x}")


def _pdu(what: str, make: Any, *reasons: int) -> Any:
    """Send the PDU that ``make(session)`` returns and judge the answer; then a new session must work."""

    async def run(site: Site) -> None:
        async with site.session() as session:
            message = make(session)
            session.send_bytes(message)
            await _judge(session, what, message, *reasons)
        async with site.session() as session:
            await session.alive()

    return run


def _wire(bhs: Any) -> Any:
    def make(session: Session) -> bytes:
        fields = {"itt": 0x123} if hasattr(bhs, "itt") else {}
        if hasattr(bhs, "cmd_sn"):
            fields["cmd_sn"] = session.cmd_sn
        return encode(Pdu(bhs._replace(**fields)))

    return make


def _lie(length: int, present: int) -> Any:
    """A ping that claims ``length`` bytes of data and has ``present``."""

    def make(session: Session) -> bytes:
        ping = NopOut(opcode=IMMEDIATE, itt=0x123, cmd_sn=session.cmd_sn)
        wire = bytearray(encode(Pdu(ping)))
        wire[5:8] = length.to_bytes(3, "big")
        return bytes(wire) + bytes(present)

    return make


def _no_header(what: str, message: bytes) -> Any:
    """A message with no iSER header of a control PDU must not be answered as one."""

    async def run(site: Site) -> None:
        async with site.session() as session:
            session.send_bytes(b"", message)
            if await session.closed(min(_SILENT, session.patience)):
                return
            arrival = await session.anything(0.1)
            if arrival is not None and not isinstance(arrival.bhs, Reject):
                raise Failure(f"{what} is answered with a {type(arrival.bhs).__name__}")
            await session.alive()
            if arrival is None:
                raise Unusual(f"{what} is dropped, and the connection goes on")

    return run


async def _logout(site: Site) -> None:
    async with site.session() as session:
        arrival = await session.ask(LogoutRequest(cid=1), LogoutResponse)
        require(arrival.bhs.response == 0, f"a logout is answered with {arrival.bhs.response}")
        if not await session.closed(min(_SILENT, session.patience)):
            raise Unusual("the target leaves the connection open behind a logout")


async def _recovery_logout(site: Site) -> None:
    async with site.session() as session:
        reason = FINAL | LogoutReason.REMOVE_FOR_RECOVERY
        try:
            arrival = await session.ask(LogoutRequest(flags=reason, cid=9), LogoutResponse)
        except Failure as failure:
            raise Unusual(f"a logout for recovery gets no response ({failure})") from None
        require(arrival.bhs.response != 0, "a logout for recovery succeeds at ErrorRecoveryLevel 0")


async def _duplicate_tag(site: Site) -> None:
    async with site.session() as session:
        blocks = min(site.blocks, (64 << 10) // site.block_size)
        first = session.send_command(read_blocks(0, blocks), read=session.read_region(blocks * site.block_size))
        session.itt -= 1
        session.send_command(test_unit_ready())
        answers = 0
        while answers < 2:
            arrival = await session.anything(min(_SILENT, session.patience))
            if arrival is None:
                break
            answers += 1
            if isinstance(arrival.bhs, Reject):
                return
            require(getattr(arrival.bhs, "itt", first) == first, "a response for a task tag that nobody used")
    async with site.session() as session:
        await session.alive()


CASES: Final = (
    Case("unknown-command", "an unknown operation code", "SPC-4 4.5", _unknown_command),
    Case("out-of-range", "reads beyond the last block", "SBC-3 4.2", _out_of_range),
    Case("no-lun", "a LUN that is not there", "SPC-4 6.6, SAM-5 4.7", _no_lun),
    Case("unknown-page", "INQUIRY of an unknown page", "SPC-4 6.6", _bad_page),
    Case("logout", "a logout ends the connection", "RFC 7143 11.14, RFC 7145 5.2", _logout),
    Case("recovery-logout", "no logout for recovery", "RFC 7143 11.14.1", _recovery_logout),
    Case("duplicate-tag", "a task tag that is in use", "RFC 7143 11.17.1", _duplicate_tag, risky=True),
    Case(
        "snack",
        "SNACK is refused",
        "RFC 7145 7.3.11",
        _pdu("a SNACK", _wire(SnackRequest()), RejectReason.PROTOCOL_ERROR, RejectReason.SNACK_REJECT),
        risky=True,
    ),
    Case(
        "unknown-opcode",
        "a PDU of an unknown opcode",
        "RFC 7143 11.17.1",
        _pdu(
            "the opcode 1fh",
            lambda _: bytes((0x1F, 0x80)) + bytes(46),
            RejectReason.COMMAND_NOT_SUPPORTED,
            RejectReason.PROTOCOL_ERROR,
        ),
        risky=True,
    ),
    Case(
        "target-opcode",
        "a PDU that only targets send",
        "RFC 7143 11.17.1",
        _pdu("an R2T", _wire(R2T()), RejectReason.PROTOCOL_ERROR, RejectReason.COMMAND_NOT_SUPPORTED),
        risky=True,
    ),
    Case(
        "second-login",
        "a Login Request in the full-feature phase",
        "RFC 7143 6.3",
        _pdu("a Login Request", _wire(LoginRequest(flags=0x87)), RejectReason.PROTOCOL_ERROR),
        risky=True,
    ),
    Case(
        "bidirectional",
        "R and W with only one key",
        "RFC 7143 11.3.1",
        _pdu(
            "a bidirectional command without keys",
            _wire(ScsiCommand(flags=FINAL | COMMAND_READ | COMMAND_WRITE, edtl=512)),
            RejectReason.INVALID_PDU_FIELD,
            RejectReason.PROTOCOL_ERROR,
        ),
        risky=True,
    ),
    Case(
        "edtl-without-direction",
        "an EDTL with neither R nor W",
        "RFC 7143 11.3.4",
        _pdu(
            "an EDTL without a direction",
            _wire(ScsiCommand(flags=FINAL, edtl=512)),
            RejectReason.INVALID_PDU_FIELD,
            RejectReason.PROTOCOL_ERROR,
        ),
        risky=True,
    ),
    Case(
        "less-data",
        "less data than DataSegmentLength",
        "RFC 7143 11.2.1.6",
        _pdu("a ping of 100 bytes with 8", _lie(100, 8), RejectReason.INVALID_PDU_FIELD, RejectReason.PROTOCOL_ERROR),
        risky=True,
    ),
    Case(
        "too-much-length",
        "a DataSegmentLength of 16 MiB",
        "RFC 7143 11.2.1.6",
        _pdu(
            "a ping of 16 MiB with 8 bytes",
            _lie(0xFFFFFF, 8),
            RejectReason.PROTOCOL_ERROR,
            RejectReason.INVALID_PDU_FIELD,
        ),
        risky=True,
    ),
    Case(
        "short-header",
        "a PDU shorter than its header",
        "RFC 7143 11.2",
        _pdu("20 bytes of a PDU", lambda _: bytes((0x40, 0x80)) + bytes(18), RejectReason.PROTOCOL_ERROR),
        risky=True,
    ),
    Case(
        "hello",
        "a Hello that was not negotiated",
        "RFC 7145 6.10",
        _no_header("a Hello", build_header(Hello(HELLO))),
        risky=True,
    ),
    Case(
        "no-iser-header",
        "a message of an unknown iSER kind",
        "RFC 7145 9.1",
        _no_header("an iSER header of kind 15", b"\xf0" + bytes(75)),
        risky=True,
    ),
    Case("empty", "an empty message", "RFC 7145 9.1", _no_header("an empty message", b""), risky=True),
)
