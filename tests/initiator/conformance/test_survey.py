from __future__ import annotations

import pytest

from initiator.conformance import survey
from initiator.options import ConnectOptions
from initiator.url import Url
from iser.errors import ConnectionFailed
from tests.initiator.conformance.bad import site_of
from tests.target.peer import TARGET


async def test_what_it_finds() -> None:
    async with site_of() as site:
        assert (site.target, site.lun) == (TARGET, 0)
        assert (site.block_size, site.blocks, site.scratch) == (512, 2048, 2048)
        assert site.max_transfer >= 64 << 10


async def test_contents_are_random_only_when_they_may_be_written() -> None:
    async with site_of() as site:
        url = Url.parse(f"iser://{site.place.portal}/{TARGET}/0")
        async with site.session() as session:
            before = await session.read(0, 64)
        assert len(set(before)) > 200
        await survey(url, ConnectOptions(), 0)
        async with site.session() as session:
            assert await session.read(0, 64) == before


async def test_where_there_is_no_target() -> None:
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
        await survey(Url.parse("iser://127.0.0.1:1/iqn.2026-11.a:b/0"), ConnectOptions(), 0)
