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
