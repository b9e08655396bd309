from __future__ import annotations

import pytest

import initiator
from iser.errors import ConnectionFailed, ScsiError, UrlError, UsageError
from tests.target.peer import TARGET, serving, until


async def test_connect_by_url_with_options_of_both_kinds() -> None:
    async with serving() as (_, port):
        place = f"iser://127.0.0.1:{port}/{TARGET}/0?queue_depth=4&strategy=bounce"
        async with await initiator.connect(place, strategy="indirect") as lun:
            assert lun.session.queue_depth == 4
            assert lun.link.planner
            assert lun.link.planner.strategy == "indirect"
            await lun.write(0, [b"a" * 100, b"b" * 412])
        assert lun.session.ended == "the session was closed"


async def test_discover() -> None:
    async with serving() as (_, port):
        (record,) = await initiator.discover(f"127.0.0.1:{port}")
        assert record.name == TARGET
        assert record.addresses[0][:2] == ("127.0.0.1", port)


async def test_bad_arguments() -> None:
    with pytest.raises(UrlError):
        await initiator.connect("host")
    with pytest.raises(UsageError, match="option 'colour' does not exist"):
        await initiator.connect(f"iser://host/{TARGET}", colour="red")
    with pytest.raises(UsageError, match="password"):
        await initiator.connect(f"iser://me%secret@host/{TARGET}")
    with pytest.raises(UrlError):
        await initiator.discover("a/b")


async def test_a_failed_connect_leaves_no_session() -> None:
    async with serving() as (server, port):
        with pytest.raises(ConnectionFailed, match="no LUN 77"):
            await initiator.connect(f"iser://127.0.0.1:{port}/{TARGET}/77")
        await until(lambda: not server.sessions)
        assert server.sessions == 0


def test_the_errors_that_users_meet_are_here() -> None:
    assert initiator.ScsiError is ScsiError
    assert all(hasattr(initiator, name) for name in initiator.__all__)
