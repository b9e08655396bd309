"""Names and addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import TextError
from iser.login.result import TargetAddress, is_iscsi_name


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:3261,1", TargetAddress("10.0.0.1", 3261, 1)),
        ("10.0.0.1", TargetAddress("10.0.0.1", 3260, None)),
        ("10.0.0.1,2", TargetAddress("10.0.0.1", 3260, 2)),
        ("storage.example:1", TargetAddress("storage.example", 1, None)),
        ("[fe80::1]:3260,65535", TargetAddress("fe80::1", 3260, 65535)),
        ("[::1]", TargetAddress("::1", 3260, None)),
    ],
)
def test_addresses(text: str, address: TargetAddress) -> None:
    assert TargetAddress.parse(text) == address
    assert TargetAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "a:",
        "a:0",
        "a:65536",
        "a:b",
        "a,",
        "a,x",
        "a,65536",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[]:1",
        "a:1:2",
        "a:٣",
    ],
)
def test_not_addresses(text: str) -> None:
    with pytest.raises(TextError):
        TargetAddress.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        TargetAddress.parse(text)
    except TextError:
        return


def test_ipv6_is_written_in_brackets() -> None:
    assert str(TargetAddress("::1", 3260, 1)) == "[::1]:3260,1"


@pytest.mark.parametrize("name", ["iqn.2026-11.org:x", "eui.02004567A425678D", "naa.52004567BA64678D"])
def test_names(name: str) -> None:
    assert is_iscsi_name(name)


@pytest.mark.parametrize("name", ["", "iqn.", "disk", "iqn.a b", "iqn.a\n", "iqn." + "a" * 220])
def test_not_names(name: str) -> None:
    assert not is_iscsi_name(name)
