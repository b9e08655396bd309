from __future__ import annotations

import pytest

from initiator.task import MAX_TAGS, TagPool, code_name
from iser.errors import ResourceError
from iser.pdu import RESERVED_TAG, RejectReason


def test_a_tag_comes_back_as_another() -> None:
    pool = TagPool()
    seen = set()
    tag = pool.take()
    for _ in range(100_000):
        assert tag not in seen
        seen.add(tag)
        pool.give(tag)
        tag = pool.take()


def test_tags_in_use_differ_are_never_reserved_and_have_a_limit() -> None:
    pool = TagPool()
    for _ in range(3):
        tags = [pool.take() for _ in range(MAX_TAGS)]
        with pytest.raises(ResourceError, match=f"all {MAX_TAGS} task tags"):
            pool.take()
        assert len(set(tags)) == MAX_TAGS
        assert RESERVED_TAG not in tags
        assert 0 not in tags
        for tag in tags:
            pool.give(tag)


def test_generations_wrap_short_of_the_reserved_tag() -> None:
    pool = TagPool()
    for index in (1, MAX_TAGS):
        pool.give(0xFFFFF000 | index)
        assert pool.take() == index


def test_names_of_codes() -> None:
    assert code_name(RejectReason, 4) == "PROTOCOL ERROR"
    assert code_name(RejectReason, 0x77) == "0x77"
