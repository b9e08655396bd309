from __future__ import annotations

import io

from rich.console import Console

from initiator.bench.table import number, show, size_name
from tests.initiator.bench.results import made_up


def test_names_and_numbers() -> None:
    assert [size_name(size) for size in (512, 4096, 1 << 20)] == ["512 B", "4 KiB", "1 MiB"]
    assert [number(value) for value in (None, 2.0, 1.5, 65536)] == ["-", "2", "1.50", "65,536"]


def test_a_table_for_each_group() -> None:
    text = io.StringIO()
    result = made_up()
    show(result, Console(file=text, width=200))
    groups = {each.case.group for each in result.measurements}
    assert text.getvalue().count("p99.9 us") == len(groups)
    assert "S8, 512 KiB write, depth 8: BYTE_GAPPY, 17 elements, 16 gaps" in text.getvalue()


def test_what_has_no_column_stands_below_the_table() -> None:
    text = io.StringIO()
    result = made_up()
    result.measurements = result.measurements[:1]
    (each,) = result.measurements
    show(result, Console(file=text, width=200))
    assert each.case.strategy + "," not in text.getvalue()
    each.counts |= {"allocations": 16, "pool_waits": 0.25}
    each.fallbacks = {"unaligned": 1}
    each.high_water = {"page_lists": 8, "bounce": 524288}
    show(result, Console(file=text, width=200))
    assert (
        f"  {each.case.strategy}, {each.case.invalidate}: 16 allocations; 0.25 pool waits; 1 fallbacks, unaligned;"
        " in use at once so far, at most: 8 page lists, 524,288 B of bounce memory\n"
    ) in text.getvalue()
