"""Sizes, addresses and names as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import UsageError
from target.config.values import MAX_SIZE, Listen, check_iscsi_name, parse_address, parse_listen, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        (4096, 4096),
        ("1K", 1024),
        ("256M", 256 << 20),
        ("256m", 256 << 20),
        ("1 GiB", 1 << 30),
        ("2GB", 2 << 30),
        (" 3T ", 3 << 40),
        ("1P", 1 << 50),
        ("7B", 7),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", ["", "M", "1.5G", "-1", "1X", "1 2", "0x10", "1MM", "9" * 30, 1.5, True, None, []])
def test_what_is_not_a_size(value: object) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(value)


@pytest.mark.parametrize("value", [-1, MAX_SIZE + 1, "1025P"])
def test_sizes_out_of_range(value: object) -> None:
    with pytest.raises(UsageError, match="out of range"):
        parse_size(value)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("iser://127.0.0.1:3260", Listen("127.0.0.1", 3260)),
        ("iser://disk.example", Listen("disk.example", 3260)),
        ("iser://[::1]:3261/", Listen("::1", 3261)),
        ("iser://[::]", Listen("::", 3260)),
        ("iser://0.0.0.0:0", Listen("0.0.0.0", 0)),
        ("iser://h:65535", Listen("h", 65535)),
    ],
)
def test_addresses(text: str, listen: Listen) -> None:
    assert parse_listen(text) == listen
    assert parse_listen(str(listen)) == listen


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("127.0.0.1:3260", "start with 'iser://'"),
        ("http://h:1", "start with 'iser://', or 'iscsi://'"),
        ("iser://:3260", "names no host"),
        ("iser://h:65536", "port '65536' .* out of range"),
        ("iser://h:-1", "port '-1' .* out of range"),
        ("iser://h:", "port '' .* out of range"),
        ("iser://h:abc", "port 'abc'"),
        ("iser://::1:3260", "IPv6 host in \\[brackets\\]"),
        ("iser://h:1/iqn.x", "not a portal address"),
        (3260, "not a portal address"),
        (None, "not a portal address"),
    ],
)
def test_addresses_that_are_none(value: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_listen(value)


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2026-11.demo:disk",
        "iqn.1992-01.com.example",
        "iqn.2026-11.a-b.c:x:y,z",
        "eui.0123456789ABCDEF",
        "naa." + "f" * 32,
    ],
)
def test_names(name: str) -> None:
    assert check_iscsi_name(name) == name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "write one such as"),
        (5, "write one such as"),
        ("disk", "is not an iSCSI name"),
        ("iqn.2026-13.demo:x", "is not an iSCSI name"),
        ("iqn.26-11.demo:x", "is not an iSCSI name"),
        ("iqn.2026-11.:x", "is not an iSCSI name"),
        ("iqn.2026-11.demo:a b", "is not an iSCSI name"),
        ("iqn.2026-11.Demo:X", "write 'iqn.2026-11.demo:x'"),
        ("eui.123", "is not an iSCSI name"),
        ("iqn.2026-11.demo:" + "x" * 207, "224 bytes long; at most 223"),
    ],
)
def test_names_that_are_none(value: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_iscsi_name(value)


@given(st.text(max_size=40))
def test_any_text_is_taken_or_refused_in_words(text: str) -> None:
    for parse in (parse_size, parse_listen, parse_address, check_iscsi_name):
        try:
            parse(text)
        except UsageError as error:
            assert str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("value", "address"),
    [("127.0.0.1:9260", ("127.0.0.1", 9260)), ("[::1]:0", ("::1", 0)), ("localhost:65535", ("localhost", 65535))],
)
def test_plain_addresses(value: str, address: tuple[str, int]) -> None:
    assert parse_address(value) == address


@pytest.mark.parametrize("value", [None, 9260, "", "9260", ":9260", "127.0.0.1", "http://127.0.0.1:9260", "a:1/", "a:"])
def test_plain_addresses_that_are_none(value: object) -> None:
    with pytest.raises(UsageError):
        parse_address(value)
