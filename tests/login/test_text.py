"""The key=value codec and its spread over PDUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import LocalProtocolError, TextError
from iser.login.text import (
    MAX_KEY_LENGTH,
    MAX_LARGE_VALUE_LENGTH,
    MAX_PAIRS,
    MAX_TEXT_LENGTH,
    MAX_TEXT_PDUS,
    Pair,
    TextAssembler,
    decode_binary,
    decode_number,
    decode_text,
    encode_binary,
    encode_text,
    split_text,
)

names = st.from_regex(r"[A-Za-z][A-Za-z0-9.+@_-]{0,62}", fullmatch=True)
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
texts = st.lists(st.tuples(names, values), unique_by=lambda pair: pair[0], max_size=8)


@given(texts)
def test_text_comes_back_as_it_went(pairs: list[Pair]) -> None:
    assert decode_text(encode_text(pairs)) == pairs


@given(texts, st.integers(1, 40))
def test_text_comes_back_over_many_pdus(pairs: list[Pair], max_data: int) -> None:
    whole = encode_text(pairs)
    parts = split_text(whole, max(max_data, len(whole) // 200))
    assembler = TextAssembler()
    for part in parts[:-1]:
        assert assembler.add(memoryview(part), more=True) is None
        assert assembler.partial
    assert assembler.add(parts[-1], more=False) == whole
    assert not assembler.partial


@given(st.binary(max_size=80))
def test_any_bytes_are_pairs_or_an_error(data: bytes) -> None:
    try:
        pairs = decode_text(data)
    except TextError:
        return
    assert decode_text(encode_text(pairs)) == pairs


def test_key_names_may_begin_with_a_small_letter() -> None:
    assert decode_text(b"iSCSIProtocolLevel=1\0") == [("iSCSIProtocolLevel", "1")]


def test_text_is_nul_terminated() -> None:
    assert encode_text([("A", "1"), ("B", "")]) == b"A=1\0B=\0"


@pytest.mark.parametrize(
    "data",
    [b"A=1", b"A\0", b"=1\0", b"1=1\0", b"A B=1\0", b"A=1\0A=2\0", b"A=\xff\0", b"\xc3=1\0"],
)
def test_malformed_text_is_refused(data: bytes) -> None:
    with pytest.raises(TextError):
        decode_text(data)


def test_nul_padding_inside_the_data_segment_is_passed_over() -> None:
    assert decode_text(b"A=1\0\0\0B=2\0\0") == [("A", "1"), ("B", "2")]


def test_a_value_may_hold_an_equals_sign() -> None:
    assert decode_text(b"CHAP_N=a=b\0") == [("CHAP_N", "a=b")]


def test_send_targets_answers_repeat_keys() -> None:
    assert decode_text(b"TargetName=a\0TargetName=b\0", unique=False) == [("TargetName", "a"), ("TargetName", "b")]


def test_limits_of_a_pair() -> None:
    name, value = "K" * MAX_KEY_LENGTH, "v" * MAX_LARGE_VALUE_LENGTH
    whole = encode_text([(name, value)])
    assert decode_text(whole) == [(name, value)]
    with pytest.raises(TextError):
        decode_text(b"K" + whole)
    with pytest.raises(TextError):
        decode_text(whole[:-1] + b"v\0")
    with pytest.raises(TextError):
        decode_text(whole, max_value_length=255)


def test_limit_of_pairs() -> None:
    with pytest.raises(TextError):
        decode_text(b"".join(b"K%d=\0" % i for i in range(MAX_PAIRS + 1)))


@pytest.mark.parametrize("pair", [("1", ""), ("K" * 64, ""), ("A", "\0"), ("A", "v" * 8193), ("", "")])
def test_our_own_pairs_are_checked(pair: Pair) -> None:
    with pytest.raises(LocalProtocolError):
        encode_text([pair])


def test_limit_of_a_text_in_bytes() -> None:
    assembler = TextAssembler()
    for _ in range(MAX_TEXT_LENGTH // 8192):
        assert assembler.add(bytes(8192), more=True) is None
    with pytest.raises(TextError):
        assembler.add(b"x", more=True)
    assert not assembler.partial


def test_limit_of_a_text_in_pdus() -> None:
    assembler = TextAssembler()
    for _ in range(MAX_TEXT_PDUS):
        assert assembler.add(b"", more=True) is None
    with pytest.raises(TextError):
        assembler.add(b"", more=True)


def test_an_empty_text_is_one_empty_part() -> None:
    assert split_text(b"", 10) == [b""]


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("0x1F", 31), ("0XfF", 255), ("262144", 262144), ("007", 7)])
def test_numbers(text: str, number: int) -> None:
    assert decode_number(text) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", "0x", "1_0", " 1", "1.0", "0b01", str(1 << 64), "٣", "9" * 5000])
def test_not_numbers(text: str) -> None:
    with pytest.raises(TextError):
        decode_number(text)


@given(st.binary(min_size=1, max_size=64), st.booleans())
def test_binary_values_come_back(value: bytes, base64: bool) -> None:
    assert decode_binary(encode_binary(value, base64=base64)) == value


def test_an_odd_number_of_hex_digits_has_a_zero_in_front() -> None:
    assert decode_binary("0x123") == b"\x01\x23"


@pytest.mark.parametrize("text", ["", "12", "0x", "0b", "0xzz", "0x1 2", "0b***", "0b=", "0x" + "00" * 17, "0bé"])
def test_not_binary_values(text: str) -> None:
    with pytest.raises(TextError):
        decode_binary(text, max_length=16)
