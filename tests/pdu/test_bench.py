"""The benchmark runs and names every hot PDU."""

from __future__ import annotations

import pytest

from iser.pdu.bench import HOT, main, nanoseconds


def test_one_line_per_hot_pdu(capsys: pytest.CaptureFixture[str]) -> None:
    main(calls=20)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [cls.__name__ for cls in HOT]
    for line in lines[1:]:
        assert all(int(figure) > 0 for figure in line.split()[1:])


def test_a_slower_function_costs_more() -> None:
    assert nanoseconds(lambda n: sum(range(n)), 10_000, 5) > nanoseconds(lambda n: n, 10_000, 5)
