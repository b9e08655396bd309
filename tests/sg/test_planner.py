"""Tests of iser.sg.planner: what is chosen, what it costs, and that everything comes back."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import PoolEmpty, ResourceError, UsageError
from iser.rdma.api import MrType
from iser.sg import STRATEGY_NAMES, Direction, Planner, Registration, SgClass, SgList
from iser.sg.planner import check_strategy
from tests.sg.devices import PLAIN, planner
from tests.sg.lists import Arena, carve, pieces

K = 4096
ALIGNED = [(0, K), (2 * K, K), (K, K)]
GAPPY = [(1, 100), (5000, 3), (300, 77)]


def chosen(plan: Planner, sg: SgList, direction: Direction = Direction.WRITE) -> str:
    """The one strategy that served ``sg``."""
    before = plan.counters.copy()
    plan.release(plan.register(sg, direction), 0)
    (name,) = plan.counters.since(before).by_strategy
    return name


@pytest.mark.parametrize(
    ("spans", "name"),
    [
        ([(0, K)], "frwr"),
        ([(7, 9000)], "frwr"),
        (ALIGNED, "frwr"),
        (GAPPY, "indirect"),
        ([(0, 512), (K, 512)], "indirect"),
    ],
)
def test_auto_takes_pages_where_there_is_no_gap(spans: list[tuple[int, int]], name: str) -> None:
    assert chosen(planner(), carve(spans)) == name


@pytest.mark.parametrize(
    ("strategy", "spans", "limits", "name", "reason"),
    [
        ("frwr", GAPPY, {}, "bounce", "unaligned"),
        ("frwr", [(0, 9 * K)], {"max_page_list": 8}, None, "oversize"),
        ("auto", GAPPY, {"caps": PLAIN}, "bounce", "no_cap"),
        ("indirect", GAPPY, {"caps": PLAIN}, "bounce", "no_cap"),
        ("indirect", GAPPY, {"max_sg_list": 2}, "bounce", "oversize"),
        ("indirect", GAPPY, {}, "indirect", None),
        ("bounce", ALIGNED, {}, "bounce", None),
    ],
)
def test_what_a_strategy_refuses_is_bounced_and_counted(
    strategy: str, spans: list[tuple[int, int]], limits: dict[str, Any], name: str | None, reason: str | None
) -> None:
    plan = planner(limits=limits, strategy=strategy)
    if name is None:
        with pytest.raises(ResourceError, match="use smaller commands"):
            plan.register(carve(spans), Direction.READ)
        assert plan.in_use == 0
        return
    assert chosen(plan, carve(spans)) == name
    assert dict(plan.counters.fallbacks) == ({reason: 1} if reason else {})


def test_no_bounce_refuses_instead_of_copying() -> None:
    plan = planner(strategy="frwr", no_bounce=True)
    with pytest.raises(ResourceError, match=r"copied \(unaligned\), and no_bounce forbids it"):
        plan.register(carve(GAPPY), Direction.READ)
    assert chosen(plan, carve(ALIGNED)) == "frwr"
    with pytest.raises(UsageError, match="no_bounce forbids it"):
        plan.strategy = "bounce"
    assert plan.counters.bytes_copied == 0


@pytest.mark.parametrize(("strategy", "pages"), [("bounce", 3), ("frwr", 1)])
def test_a_copy_that_was_asked_for_allocates_for_each_command_and_a_fallback_does_not(
    strategy: str, pages: int
) -> None:
    plan = planner(strategy=strategy)
    for _ in range(3):
        plan.release(plan.register(carve(GAPPY), Direction.WRITE), 0)
    assert plan.counters.allocations == pages
    assert plan.counters.bytes_copied == 3 * 180


def test_a_destination_that_overlaps_is_bounced_or_refused_and_a_source_is_not() -> None:
    arena = Arena()
    sg = SgList.of(arena.cut([(0, 100), (50, 100)]), writable=True)
    plan = planner()
    assert chosen(plan, sg, Direction.READ) == "bounce"
    assert dict(plan.counters.fallbacks) == {"overlap": 1}
    assert chosen(plan, sg, Direction.WRITE) == "indirect"
    with pytest.raises(ResourceError, match="overlap"):
        planner(no_bounce=True).register(sg, Direction.READ)


def test_a_name_that_does_not_exist_names_the_choices() -> None:
    assert check_strategy("page list") == check_strategy("page-list") == "frwr"
    with pytest.raises(UsageError, match="choose one of auto"):
        planner(strategy="fastest")
    assert STRATEGY_NAMES[0] == "auto"


def test_lists_beyond_the_depth_have_to_wait() -> None:
    plan = planner(depth=2, strategy="indirect")
    held = [plan.register(carve(GAPPY), Direction.READ) for _ in range(2)]
    with pytest.raises(PoolEmpty):
        plan.register(carve(GAPPY), Direction.READ)
    assert (plan.in_use, plan.counters.stags) == (2, 2)
    for each in held:
        plan.release(each, 0)
    assert plan.in_use == 0
    assert chosen(plan, carve(GAPPY)) == "indirect"


@pytest.mark.parametrize(
    ("strategy", "direction", "arrived", "entries", "list_bytes", "copied"),
    [
        ("indirect", Direction.READ, 180, 3, 64, 0),
        ("indirect", Direction.WRITE, 0, 3, 64, 0),
        ("bounce", Direction.WRITE, 0, 1, 8, 180),
        ("bounce", Direction.READ, 180, 1, 8, 180),
        ("bounce", Direction.READ, 100, 1, 8, 100),
        ("bounce", Direction.READ, 0, 1, 8, 0),
    ],
)
def test_the_counts_of_one_list_are_exact(
    strategy: str, direction: Direction, arrived: int, entries: int, list_bytes: int, copied: int
) -> None:
    plan = planner(strategy=strategy)
    plan.release(plan.register(carve(GAPPY), direction), arrived)
    counters = plan.counters
    assert (counters.registrations, counters.stags, counters.work_requests) == (1, 1, 1)
    assert (counters.list_entries, counters.list_bytes, counters.bytes_copied) == (entries, list_bytes, copied)
    assert counters.allocations == (1 if strategy == "bounce" else 0)
    assert dict(counters.by_strategy) == {strategy: 1}


def test_the_counts_of_a_page_list_are_its_blocks() -> None:
    plan = planner()
    plan.release(plan.register(carve([(100, 2 * K)]), Direction.READ), 0)
    assert (plan.counters.list_entries, plan.counters.list_bytes) == (3, 24)


def test_one_debug_line_for_each_registration(caplog: pytest.LogCaptureFixture) -> None:
    plan = planner()
    with caplog.at_level(logging.DEBUG, "iser.sg"):
        registration = plan.register(carve(GAPPY), Direction.READ)
    (line,) = caplog.messages
    assert line.startswith("indirect: lkey=")
    assert f"rkey={registration.rkey:08x} base={registration.iova:#x} length=180 elements=3" in line
    assert line.endswith(f"class={SgClass.BYTE_GAPPY.value}")
    plan.release(registration, 0)


LIMITS = st.fixed_dictionaries(
    {"max_page_list": st.integers(1, 6), "max_sg_list": st.integers(1, 6), "caps": st.sampled_from([PLAIN, None])}
)


@settings(deadline=None)  # it carves out of 4 MiB, which takes a busy machine long
@given(
    LIMITS,
    st.sampled_from(["auto", "frwr", "indirect", "bounce"]),
    st.booleans(),
    st.lists(st.tuples(st.one_of(pieces(1), pieces(512), pieces(4096, 4)), st.sampled_from(Direction)), max_size=6),
)
def test_no_list_passes_the_limits_of_the_device_and_all_is_given_back(
    limits: dict[str, Any], strategy: str, no_bounce: bool, lists: list[tuple[list[tuple[int, int]], Direction]]
) -> None:
    limits = {name: value for name, value in limits.items() if value is not None}
    plan = planner(limits=limits, strategy="auto" if no_bounce else strategy, no_bounce=no_bounce, depth=4)
    held: list[tuple[Registration, SgList]] = []
    for spans, direction in lists:
        sg = carve(spans, 4 << 20)
        try:
            registration = plan.register(sg, direction)
        except ResourceError:
            continue
        region = registration.region
        limit = limits["max_page_list"] if region.kind is MrType.MEM_REG else limits["max_sg_list"]
        assert region.max_num_sg <= limit
        assert registration.length == region.length == sg.length
        held.append((registration, sg))
    assert plan.counters.stags == len(held)
    if no_bounce:
        assert plan.counters.by_strategy["bounce"] == 0
    for registration, sg in held:
        plan.release(registration, sg.length)
    assert plan.in_use == 0
