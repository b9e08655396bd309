"""Reservations on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from iser.errors import BackendError
from iser.scsi.const import ReservationType
from target.scsi.reservations import Persistent, Reservation
from target.scsi.store import MAX_STORED, ReservationStore

STATE = Persistent(
    {"iqn.a,i,0x1,t,0x0001": 1, "iqn.b,i,0x2,t,0x0002": 2**64 - 1},
    Reservation("iqn.a,i,0x1,t,0x0001", ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY),
    aptpl=True,
    generation=7,
)


def test_what_was_saved_is_loaded_and_counts_from_0(tmp_path: Path) -> None:
    store = ReservationStore(tmp_path / "pr")
    assert store.load() == Persistent()
    store.save(STATE)
    loaded = store.load()
    assert (loaded.keys, loaded.reservation, loaded.aptpl, loaded.generation) == (
        STATE.keys,
        STATE.reservation,
        True,
        0,
    )
    store.save(STATE.release())
    assert store.load().reservation is None
    assert [path.name for path in tmp_path.iterdir()] == ["pr"]
    store.save(Persistent())
    assert list(tmp_path.iterdir()) == []
    store.save(Persistent())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keys": {"a,t,0x1": "0x0"}, "reservation": null}',
        '{"keys": {"a,t,0x1": "0x10000000000000000"}, "reservation": null}',
        '{"keys": {}, "reservation": {"holder": "a,t,0x1", "type": 2}}',
        '{"keys": [], "reservation": null}',
        " " * (MAX_STORED + 1),
    ],
    ids=["empty", "a list", "no keys", "key 0", "key too large", "no such type", "keys are a list", "too long"],
)
def test_a_file_that_is_not_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "pr").write_text(text)
    with pytest.raises(BackendError, match="is no file of reservations"):
        ReservationStore(tmp_path / "pr").load()


def test_where_nothing_can_be_kept(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot be kept: No such file"):
        ReservationStore(tmp_path / "missing" / "pr").save(STATE)
    (tmp_path / "pr").mkdir()
    with pytest.raises(BackendError, match="cannot be read: Is a directory"):
        ReservationStore(tmp_path / "pr").load()
    with pytest.raises(BackendError, match="cannot be kept"):
        ReservationStore(tmp_path / "pr").save(STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["pr"]  # nothing half-made is left
