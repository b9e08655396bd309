"""Settings that cannot work are refused with the name of the field."""

from __future__ import annotations

from typing import Any

import pytest

from iser.errors import UsageError
from iser.rdma.softiwarp import SoftIwarpOptions


@pytest.mark.parametrize("values", [{}, {"crc": True}, {"segment": 128}, {"segment": "mss"}, {"mpa_version": 1}])
def test_good_settings(values: dict[str, Any]) -> None:
    SoftIwarpOptions(**values)


@pytest.mark.parametrize(
    "values", [{"crc": "maybe"}, {"segment": 127}, {"segment": 65536}, {"segment": "big"}, {"mpa_version": 3}]
)
def test_bad_settings(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(UsageError, match=f"{name} = "):
        SoftIwarpOptions(**values)
