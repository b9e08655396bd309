"""Tests of target.workers.spread."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import UsageError
from target.workers.spread import spread
from tests.target.workers.site import lun, settings, target


def name(number: int) -> str:
    return f"iqn.2026-11.test:t{number}"


def test_the_one_with_least_gets_the_next() -> None:
    config = settings(*(target(name(number)) for number in range(5)))
    assert spread(config, 2) == {name(0): 1, name(1): 2, name(2): 1, name(3): 2, name(4): 1}


def test_the_key_decides_and_counts_before_the_others_are_shared_out() -> None:
    config = settings(target(name(0)), target(name(1)), target(name(2), worker=1))
    assert spread(config, 2) == {name(0): 2, name(1): 1, name(2): 1}


def test_who_is_served_stays_where_it_is() -> None:
    before = {name(0): 2, name(1): 1, name(9): 1}
    config = settings(target(name(5)), target(name(0)), target(name(1)), target(name(2)))
    assert spread(config, 2, before) == {name(5): 1, name(0): 2, name(1): 1, name(2): 2}


def test_targets_of_one_store_stay_together_even_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    (tmp_path / "link").symlink_to("disk")
    config = settings(
        target(name(0), lun(backend="nbd", uri="nbd://host/x")),
        target(name(1), lun(backend="file", path=str(tmp_path / "disk"))),
        target(name(2), lun(backend="nbd", uri="nbd://host/x")),
        target(name(3), lun(backend="file", path=str(tmp_path / "link")), worker=2),
    )
    assert spread(config, 2) == {name(0): 1, name(1): 2, name(2): 1, name(3): 2}


def test_a_worker_that_does_not_run_is_refused() -> None:
    config = settings(target(name(0), worker=3), workers=4)
    with pytest.raises(UsageError, match=r"wants worker 3, but 2 run; .*restart"):
        spread(config, 2)


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.none() | st.integers(1, 5), st.none() | st.integers(0, 3)), min_size=1, max_size=12),
)
def test_every_target_has_one_worker_and_none_has_much_more(
    workers: int, wishes: list[tuple[int | None, int | None]]
) -> None:
    targets = [
        target(
            name(index),
            lun(backend="nbd", uri=f"nbd://host/{store}") if store is not None else lun(),
            worker=min(wish, workers) if wish else None,
        )
        for index, (wish, store) in enumerate(wishes)
    ]
    config = settings(*targets, workers=workers)
    owners = spread(config, workers)
    assert list(owners) == [each["name"] for each in targets]
    assert set(owners.values()) <= set(range(1, workers + 1))
    assert spread(config, workers, owners) == owners
    stores: dict[str, set[int]] = {}
    for each in config.target:
        if each.lun[0].uri:
            stores.setdefault(each.lun[0].uri, set()).add(owners[each.name])
    assert all(len(workers_) == 1 for workers_ in stores.values())
    if all(wish is None and store is None for wish, store in wishes):
        load = [list(owners.values()).count(worker) for worker in range(1, workers + 1)]
        assert max(load) - min(load) <= 1
