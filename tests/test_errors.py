"""Tests of iser.errors: the tree is the one that its page shows, and messages carry what a program needs."""

from __future__ import annotations

import re

import pytest

from iser import errors
from iser.errors import (
    BackendError,
    ConfigError,
    ConnectionRejected,
    IserError,
    LoginError,
    NegotiationError,
    PduError,
    ScsiError,
    TerminateError,
    UsageError,
)


def documented() -> dict[str, str]:
    """The parent of each error, as the module's text draws it."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([ │├└─]*)([A-Z]\w+)", line)
        if not found:
            continue
        depth, name = len(found[1]), found[2]
        while above and above[-1][0] >= depth:
            above.pop()
        if above:
            parents[name] = above[-1][1]
        above.append((depth, name))
    return parents


def test_the_tree_is_the_documented_one_and_all_of_it_is_public() -> None:
    kinds = {name: getattr(errors, name) for name in errors.__all__}
    own = {
        name: [base.__name__ for base in kind.__bases__ if issubclass(base, IserError)] for name, kind in kinds.items()
    }
    assert own.pop("IserError") == []
    assert own == {name: [parent] for name, parent in documented().items()}
    defined = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert defined == set(errors.__all__)


def test_a_wrong_argument_is_also_a_value_error() -> None:
    assert issubclass(UsageError, ValueError)


@pytest.mark.parametrize(
    ("error", "text", "fields"),
    [
        (ConfigError("a.toml:3", "no such key"), "a.toml:3: no such key", {"place": "a.toml:3", "what": "no such key"}),
        (PduError("it is short"), "it is short", {"reason": 4}),
        (TerminateError("no", 1, 2, 0x0A), "no (terminate 1/2/0a)", {"layer": 1, "etype": 2, "code": 10}),
        (NegotiationError("MaxBurstLength", "0"), "MaxBurstLength: 0", {"key": "MaxBurstLength"}),
        (LoginError("no", 2, 3), "no (login status 0203)", {"status_class": 2, "status_detail": 3}),
        (ConnectionRejected("no", b"why"), "no", {"private_data": b"why"}),
        (BackendError("full", space=True), "full", {"medium": True, "space": True, "offset": None}),
        (ScsiError("busy", 8), "busy", {"status": 8, "sense": b"", "sense_key": 0, "asc": 0, "ascq": 0}),
    ],
)  # fmt: skip
def test_what_a_message_says_can_be_read_from_fields_too(
    error: IserError, text: str, fields: dict[str, object]
) -> None:
    assert str(error) == text
    assert {name: getattr(error, name) for name in fields} == fields
