"""The table of transitions."""

from __future__ import annotations

from itertools import product

import pytest

from iser.errors import PduError, TextError
from iser.login.params import LOGIN_DATA_LENGTH
from iser.login.stages import NEXT_STAGE, LoginText, login_flags, next_stage
from iser.pdu.const import Stage
from tests.login.peers import request


@pytest.mark.parametrize(("stage", "csg", "nsg"), list(product([None, *Stage], range(4), [None, *range(4)])))
def test_only_the_steps_of_the_rfc_are_legal(stage: Stage | None, csg: int, nsg: int | None) -> None:
    legal = csg in (0, 1) and stage in (None, csg) and (nsg is None or (nsg in (1, 3) and nsg > csg))
    assert ((stage, csg, nsg) in NEXT_STAGE) == legal
    if legal:
        assert next_stage(stage, csg, nsg) == (csg if nsg is None else nsg)
    else:
        with pytest.raises(PduError, match="CSG"):
            next_stage(stage, csg, nsg)


def test_flags_taken_apart() -> None:
    assert login_flags(0x87) == (1, 3, False)
    assert login_flags(0x44) == (1, None, True)
    assert login_flags(0x03) == (0, None, False)  # NSG means nothing without T
    with pytest.raises(PduError):
        login_flags(0xC7)


def test_a_login_pdu_has_a_bounded_data_segment() -> None:
    text = LoginText()
    with pytest.raises(TextError):
        text.take(request(0x04)._replace(data=bytes(LOGIN_DATA_LENGTH + 1)), login_flags(0x04))


def test_long_text_goes_in_parts_with_the_flags_of_the_end_on_the_last() -> None:
    text = LoginText()
    data, flags = text.load([("TargetAlias", "a" * 8192), ("X-org.x", "b" * 8192)], 0x87)
    sizes, bits = [len(data)], [flags]
    while text.sending:
        data, flags = text.next_part()
        sizes.append(len(data))
        bits.append(flags)
    assert bits == [0x44, 0x44, 0x87]
    assert max(sizes) == LOGIN_DATA_LENGTH
