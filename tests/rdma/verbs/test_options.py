"""Settings out of bounds."""

from __future__ import annotations

import pytest

from iser.errors import UsageError
from iser.rdma.verbs.options import MIN_SEND_DEPTH, VerbsOptions


def test_a_send_queue_too_short_to_signal_is_refused() -> None:
    with pytest.raises(UsageError, match=f"give at least {MIN_SEND_DEPTH}"):
        VerbsOptions(send_depth=MIN_SEND_DEPTH - 1)


def test_sizes_below_zero_are_refused() -> None:
    with pytest.raises(UsageError, match="negative"):
        VerbsOptions(inline=-1)
