from __future__ import annotations

import io

from rich.console import Console

from initiator.bench import mr


def test_costs_by_number_of_elements_and_the_goal_is_printed() -> None:
    rows = mr.measure(0.002, (1, 128))
    assert [row.elements for row in rows] == [1, 128]
    assert all(cost >= 0 for row in rows for cost in row.costs.values())
    assert rows[1].costs["of"] > rows[0].costs["of"]
    text = io.StringIO()
    mr.show(rows, [("S0", "bounce", 4096, []), ("S0", "bounce_pool", None, [])], Console(file=text, width=160))
    assert "goal: at most 0.50" in text.getvalue()
    assert "4 KiB" in text.getvalue()
    assert "never" in text.getvalue()


def test_where_registering_begins_to_pay() -> None:
    cheap, dear = (1.0, 2.0), (2.0, 1.0)
    assert mr._crossing([(512, *dear), (1024, *cheap), (2048, *cheap)]) == 1024
    assert mr._crossing([(512, *cheap), (1024, *dear), (2048, *cheap)]) == 2048
    assert mr._crossing([(512, *cheap), (1024, *cheap)]) == 512
    assert mr._crossing([(512, *cheap), (1024, *dear)]) is None


def test_crossovers_name_each_shape_twice() -> None:
    found = mr.crossovers(0.0001)
    assert len(found) == 24
    assert {against for _, against, _, _ in found} == {"bounce", "bounce_pool"}
