"""The sending half: sequences cut as agreed, status in the last Data-In, bounded windows, digests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.datamover.tcp.tx import GATHER_LIMIT, TX_WINDOW, DataOuts, Put, Transmitter
from iser.datamover.tcp.wire import digest
from iser.pdu import (
    DATA_IN_STATUS,
    FINAL,
    RESPONSE_UNDERFLOW,
    DataIn,
    DataOut,
    NopIn,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    decode_bhs,
    encode_bhs,
)


def put(length: int, *, offset: int = 0, data_sn: int = 0, notify: tuple[int, int] | None = None) -> Put:
    data = bytes(index % 251 for index in range(length))
    return Put(7, [memoryview(data)], length, offset, data_sn, 11, 22, notify)


def drained(tx: Transmitter, step: int = 1 << 30) -> tuple[bytes, list[tuple[int, int]]]:
    """All that goes out, the socket taking at most ``step`` bytes at once; and what was notified."""
    wire, heard = bytearray(), []
    while pieces := tx.outgoing():
        assert len(pieces) <= 1024
        part = b"".join(pieces)[:step]
        wire += part
        heard += tx.sent(len(part))
    assert not tx.pending
    assert not tx.unsent
    return bytes(wire), heard


def parsed(wire: bytes, *, header: bool = False, data: bool = False) -> list[tuple[Any, bytes]]:
    """The PDUs in ``wire``, their digests checked."""
    found = []
    while wire:
        bhs = decode_bhs(wire)
        at = 48
        if header:
            assert wire[at : at + 4] == digest(wire[:at])
            at += 4
        length = bhs.data_segment_length
        padded = length + 3 & ~3
        segment = wire[at : at + padded]
        at += padded
        if data and length:
            assert wire[at : at + 4] == digest(segment)
            at += 4
        assert not any(segment[length:])
        found.append((bhs, segment[:length]))
        wire = wire[at:]
    return found


def test_read_data_that_fits_is_one_pdu() -> None:
    tx = Transmitter()
    tx.queue.append(put(512, offset=1024, data_sn=3))
    ((bhs, data),) = parsed(drained(tx)[0])
    assert bhs == DataIn(
        flags=FINAL,
        data_segment_length=512,
        itt=7,
        exp_cmd_sn=11,
        max_cmd_sn=22,
        data_sn=3,
        buffer_offset=1024,
    )
    assert data == bytes(index % 251 for index in range(512))


def test_a_response_travels_with_the_last_data() -> None:
    tx = Transmitter()
    tx.segment = 512
    item = put(1300)
    tx.queue.append(item)
    assert tx.may_join(item)
    item.response = ScsiResponse(
        flags=FINAL | RESPONSE_UNDERFLOW, status=0, itt=7, stat_sn=5, exp_cmd_sn=12, max_cmd_sn=23, residual=99
    )
    first, second, last = (bhs for bhs, _ in parsed(drained(tx)[0]))
    assert (first.flags, second.flags) == (0, 0)
    assert last.flags == FINAL | DATA_IN_STATUS | RESPONSE_UNDERFLOW
    assert (last.stat_sn, last.exp_cmd_sn, last.max_cmd_sn, last.residual) == (5, 12, 23, 99)
    assert [bhs.data_sn for bhs in (first, second, last)] == [0, 1, 2]
    assert (first.stat_sn, first.residual) == (0, 0)


def test_a_response_joins_only_data_that_is_the_last_in_the_queue_and_has_not_gone() -> None:
    tx = Transmitter()
    item = put(512)
    tx.queue.append(item)
    tx.pdu(Pdu(NopIn()))
    assert not tx.may_join(item)
    other = put(512)
    tx.queue.append(other)
    drained(tx)
    assert not tx.may_join(other)


@pytest.mark.parametrize(("segment", "burst"), [(512, 1024), (512, 1536), (8192, 512), (700, 1000), (1 << 18, 1 << 18)])
def test_sequences_end_at_each_burst(segment: int, burst: int) -> None:
    tx = Transmitter()
    tx.segment, tx.burst = segment, burst
    length = 4321
    tx.queue.append(put(length))
    pdus = parsed(drained(tx)[0])
    assert tx.data_pdus(length) == len(pdus)
    end = 0
    for number, (bhs, data) in enumerate(pdus):
        assert (bhs.data_sn, bhs.buffer_offset) == (number, end)
        assert 0 < len(data) <= segment
        end += len(data)
        assert bool(bhs.flags & FINAL) == (end % burst == 0 or end == length)
    assert end == length


def test_data_outs_answer_one_r2t() -> None:
    tx = Transmitter()
    tx.segment = 1000
    memory = memoryview(bytes(range(250)) * 10)
    tx.queue.append(DataOuts(3 << 48, 7, 0x99, [memory[:1300], memory[1300:]], 2500, 8192, 77))
    pdus = parsed(drained(tx)[0])
    assert b"".join(data for _, data in pdus) == bytes(memory)
    assert [bhs for bhs, _ in pdus] == [
        DataOut(0x05, flags, 0, length, 3 << 48, 7, 0x99, 77, sn, 8192 + 1000 * sn)
        for sn, (flags, length) in enumerate([(0, 1000), (0, 1000), (FINAL, 500)])
    ]


def test_notifications_come_when_the_last_byte_has_gone() -> None:
    tx = Transmitter()
    tx.segment = 512
    tx.queue.append(put(1024, notify=(7, 41)))
    total = sum(map(len, tx.outgoing()))
    assert tx.sent(total - 1) == []
    assert tx.sent(1) == [(7, 41)]


def test_a_peer_with_a_small_length_makes_us_hold_no_more_than_a_window() -> None:
    tx = Transmitter()
    tx.segment = 512
    for _ in range(64):
        tx.queue.append(put(1 << 16))
    pieces = tx.outgoing()
    assert sum(map(len, pieces)) <= TX_WINDOW + 1024
    assert len(pieces) <= GATHER_LIMIT + 3
    assert len(drained(tx)[0]) == 64 * (1 << 16) + 64 * 128 * 48


def test_a_list_of_many_pieces_is_gathered_in_parts() -> None:
    tx = Transmitter()
    memory = memoryview(bytes(5000))
    tx.queue.append(Put(7, [memory[index : index + 1] for index in range(5000)], 5000, 0, 0, 0, 0, None))
    assert len(drained(tx)[0]) == 48 + 5000


def test_what_an_ended_task_still_had_to_send_is_dropped_at_the_border_of_a_pdu() -> None:
    tx = Transmitter()
    tx.segment = 512
    memory = memoryview(bytes(4 << 20))
    tx.queue.append(DataOuts(0, 7, 1, [memory], len(memory), 0, 0))
    tx.queue.append(DataOuts(0, 8, 2, [memory[:512]], 512, 0, 0))
    tx.outgoing()
    tx.drop_data_outs(7)
    pdus = parsed(drained(tx)[0])
    assert {len(data) for _, data in pdus} == {512}
    assert [bhs.itt for bhs, _ in pdus[-2:]] == [7, 8]
    assert len(pdus) < 4000


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_digests(header: bool, data: bool) -> None:
    tx = Transmitter()
    tx.header_digest, tx.data_digest, tx.segment = header, data, 700
    tx.pdu(Pdu(NopIn(itt=1), b"ping!"))
    tx.queue.append(put(1001))
    tx.command(encode_bhs(ScsiCommand(itt=9, data_segment_length=5)), [memoryview(b"abc"), memoryview(b"de")], 5)
    tx.pdu(Pdu(NopIn(itt=2)))
    segments = [segment for _, segment in parsed(drained(tx)[0], header=header, data=data)]
    assert segments[0] == b"ping!"
    assert list(map(len, segments)) == [5, 700, 301, 5, 0]
    assert segments[3] == b"abcde"


def test_with_digests_memory_may_change_before_the_socket_takes_it() -> None:
    tx = Transmitter()
    tx.data_digest = True
    memory = bytearray(512)
    tx.queue.append(Put(7, [memoryview(memory)], 512, 0, 0, 0, 0, None))
    tx.outgoing()
    memory[:] = b"\xff" * 512
    assert parsed(drained(tx)[0], data=True)[0][1] == bytes(512)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 3000), st.binary(max_size=40)), max_size=8),
    st.integers(1, 700),
    st.booleans(),
)
def test_however_little_the_socket_takes_the_stream_is_the_same(
    items: list[int | bytes], step: int, digests: bool
) -> None:
    streams = []
    for size in (step, 1 << 30):
        tx = Transmitter()
        tx.segment, tx.burst, tx.header_digest, tx.data_digest = 600, 1024, digests, digests
        for item in items:
            if isinstance(item, int):
                tx.queue.append(put(item, notify=(7, item)))
            else:
                tx.pdu(Pdu(NopIn(), item))
        wire, heard = drained(tx, size)
        assert heard == [(7, item) for item in items if isinstance(item, int)]
        streams.append(wire)
    assert streams[0] == streams[1]


def test_what_is_built_at_once_goes_in_its_turn() -> None:
    tx = Transmitter()
    header = encode_bhs(DataIn(flags=FINAL, data_segment_length=512, itt=9))
    assert tx.quick(header, [memoryview(bytes(512))], 512, (9, 1))
    assert tx.unsent == 560
    tx.queue.append(put(512))
    assert not tx.quick(header, [memoryview(bytes(512))], 512, None)  # it would overtake
    wire, heard = drained(tx)
    assert [bhs.itt for bhs, _ in parsed(wire)] == [9, 7]
    assert heard == [(9, 1)]


def test_what_is_built_at_once_is_bounded() -> None:
    tx = Transmitter()
    whole = [memoryview(bytes(TX_WINDOW))]
    assert tx.quick(b"h" * 48, whole, TX_WINDOW, None)
    assert not tx.quick(b"h" * 48, whole, TX_WINDOW, None)
    tx.clear()
    assert sum(tx.quick(b"h" * 48, (), 0, None) for _ in range(GATHER_LIMIT + 50)) == GATHER_LIMIT
