"""An initiator that costs almost nothing: 4 KiB reads from a target on the same machine, over TCP, thrown away unread.

Commands go in groups of one send each.  The kernel wakes us once for all answers of a group and drops them unread
(MSG_TRUNC), so they have to be of the length that is expected: the first groups are read and checked.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from iser.errors import LoginError
from iser.login import InitiatorLogin, InitiatorLoginConfig, LoginResult
from iser.pdu import BHS_LENGTH, COMMAND_READ, FINAL, DataIn, Pdu, ScsiCommand, decode, decode_bhs, encode, padding
from iser.pdu.const import sn_add
from iser.scsi.cdb import read_blocks, test_unit_ready
from tests.benchmark.host import BenchmarkError

__all__ = ["Flood", "Flooded"]

INITIATOR: Final = "iqn.2026-11.benchmark:flood"
_BLOCK: Final = 512
_LENGTH: Final = 4096  # bytes of a read
_ANSWER: Final = BHS_LENGTH + _LENGTH  # a Data-In that carries the status
_GROUP: Final = 32  # commands
_AHEAD: Final = 2  # groups on their way at a time: one is sent while the other is served
_PATTERN: Final = 64  # groups of commands, sent in turn
_CHECKED: Final = 8  # groups whose answers are looked at
_HOPS: Final = 4
_TIMEOUT: Final = 20.0  # seconds without an answer
_CMD_SN_WORD: Final = 24 // 4  # of a BHS
_BHS_WORDS: Final = BHS_LENGTH // 4


class Flooded(NamedTuple):
    """Reads a second, and the processor time that this side took for each, in seconds."""

    iops: float
    cpu: float


class _Session:
    """A blocking socket, logged in.  Raises BenchmarkError."""

    def __init__(self, address: tuple[str, int], target: str) -> None:
        self.login: LoginResult
        for _ in range(_HOPS):
            self.sock = socket.create_connection(address, _TIMEOUT)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            config = InitiatorLoginConfig(
                initiator_name=INITIATOR, isid=random.randbytes(6), target_name=target, transport="tcp"
            )
            login = InitiatorLogin(config)
            try:
                self._log_in(login)
            except LoginError as error:
                self.sock.close()
                if login.redirect is None:
                    raise BenchmarkError(f"{target}: {error}") from error
                address = login.redirect.host, login.redirect.port
            else:
                self.login = login.result
                self.cmd_sn = self.login.cmd_sn
                return
        raise BenchmarkError(f"{target} was redirected {_HOPS} times")

    def _log_in(self, login: InitiatorLogin) -> None:
        request: Pdu | None = login.start()
        while request is not None:
            self.sock.sendall(encode(request))
            request = login.receive(self.receive())

    def receive(self) -> Pdu:
        """The next PDU."""
        head = self.exactly(BHS_LENGTH)
        length = decode_bhs(head).data_segment_length
        return decode(head + self.exactly(length + len(padding(length))))

    def exactly(self, length: int) -> bytes:
        """So many bytes."""
        data = b""
        while len(data) < length:
            more = self.sock.recv(length - len(data))
            if not more:
                raise BenchmarkError("the target closed the connection")
            data += more
        return data

    def command(self, itt: int, cdb: bytes, length: int = 0) -> ScsiCommand:
        """With the next CmdSN."""
        self.cmd_sn = sn_add(self.cmd_sn, 1)
        flags = FINAL | (COMMAND_READ if length else 0)
        return ScsiCommand(
            flags=flags, itt=itt, edtl=length, cmd_sn=sn_add(self.cmd_sn, -1), cdb=cdb.ljust(16, b"\0"),
            exp_stat_sn=self.login.stat_sn,
        )  # fmt: skip

    def clear_attention(self) -> None:
        """Every nexus begins with unit attentions."""
        for _ in range(4):
            self.sock.sendall(encode(Pdu(self.command(1, test_unit_ready()))))
            if not getattr(self.receive().bhs, "status", 1):
                return


class Flood:
    """A session that is ready to read at random within ``size`` bytes of LUN 0.

    Raises BenchmarkError for a target that cannot be reached, or answers otherwise than with the data and no more.
    """

    def __init__(self, address: tuple[str, int], target: str, size: int) -> None:
        self._session = _Session(address, target)
        self._groups = [_group(self._session, size) for _ in range(_PATTERN)]
        try:
            self._session.clear_attention()
            self._rehearse()
        except BaseException:
            self._session.sock.close()
            raise

    def _rehearse(self) -> None:
        for group in self._groups[:_CHECKED]:
            _send(self._session, group)
            for _ in range(_GROUP):
                _check(self._session.receive())
        self._session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _GROUP * _ANSWER)

    def run(self, seconds: float) -> Flooded:
        """Read for ``seconds``, and close."""
        session, groups, scratch = self._session, self._groups, bytearray(_GROUP * _ANSWER)
        began, busy, done = time.perf_counter(), time.process_time(), 0
        for group in groups[:_AHEAD]:
            _send(session, group)
        while time.perf_counter() < began + seconds:
            _drop(session.sock, scratch)
            done += 1
            _send(session, groups[done % len(groups)])
        elapsed, busy = time.perf_counter() - began, time.process_time() - busy
        session.sock.close()
        return Flooded(done * _GROUP / elapsed, busy / (done * _GROUP))


def _group(session: _Session, size: int) -> bytearray:
    """Commands as bytes, whose CmdSN is written when they are sent."""
    blocks = _LENGTH // _BLOCK
    commands = []
    for itt in range(_GROUP):
        lba = random.randrange(size // _LENGTH) * blocks
        bhs = ScsiCommand(
            flags=FINAL | COMMAND_READ, itt=itt, edtl=_LENGTH, exp_stat_sn=session.login.stat_sn,
            cdb=read_blocks(lba, blocks).ljust(16, b"\0"),
        )  # fmt: skip
        commands.append(encode(Pdu(bhs)))
    return bytearray(b"".join(commands))


def _send(session: _Session, group: bytearray) -> None:
    first = session.cmd_sn
    session.cmd_sn = first + _GROUP
    numbers = array("I", range(first, first + _GROUP))
    numbers.byteswap()
    memoryview(group).cast("I")[_CMD_SN_WORD::_BHS_WORDS] = memoryview(numbers)
    session.sock.sendall(group)


def _check(pdu: Pdu) -> None:
    bhs = pdu.bhs
    if not isinstance(bhs, DataIn) or bhs.status or not bhs.flags & 1 or bhs.data_segment_length != _LENGTH:
        raise BenchmarkError(f"the target answered a read with {bhs}")


def _drop(sock: socket.socket, scratch: bytearray) -> None:
    left = len(scratch)
    while left:
        got = sock.recv_into(scratch, left, socket.MSG_TRUNC)
        if not got:
            raise BenchmarkError("the target closed the connection")
        left -= got


def main(arguments: Sequence[str]) -> None:
    """Host, port, target, bytes, seconds; begins on a line of input, so that several can begin at a time.

    Says ``ready``, then reads a second and the seconds of processor time that each took here.
    """
    host, port, target, size, seconds = arguments
    flood = Flood((host, int(port)), target, int(size))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    found = flood.run(float(seconds))
    sys.stdout.write(f"{found.iops} {found.cpu}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
