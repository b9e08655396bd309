from __future__ import annotations

from typing import Any

import pytest

from initiator.options import OPTION_NAMES, ConnectOptions, default_initiator_name, parse_option
from iser.errors import UsageError
from iser.login import is_iscsi_name


def test_the_default_name_is_an_iscsi_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("Big_Box.example", "", "ü", "x" * 400):
        monkeypatch.setattr("platform.node", lambda host=host: host)
        assert is_iscsi_name(default_initiator_name())


@pytest.mark.parametrize(
    "changes",
    [
        {"queue_depth": 0},
        {"queue_depth": 1025},
        {"timeout": 0.0},
        {"login_timeout": -1.0},
        {"max_transfer": 511},
        {"max_transfer": (16 << 20) + 1},
        {"busy_poll_us": -1},
        {"busy_poll_us": 1001},
        {"strategy": "none"},
        {"provider": "none"},
        {"initiator_name": "none"},
    ],
)
def test_values_out_of_bounds_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        ConnectOptions(**changes)


def test_changes_keep_the_rest_and_unknown_ones_are_refused() -> None:
    options = ConnectOptions(queue_depth=3).with_changes({"timeout": 2.0})
    assert (options.queue_depth, options.timeout) == (3, 2.0)
    with pytest.raises(UsageError, match="option 'depth' does not exist"):
        options.with_changes({"depth": 1})


def test_every_option_can_stand_in_a_url() -> None:
    for name in OPTION_NAMES:
        value = getattr(ConnectOptions(), name)
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        assert parse_option(name, text) == value
