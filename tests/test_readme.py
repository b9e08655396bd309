"""The README's example is code that runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.target.peer import TARGET, serving

README = Path(__file__).parents[1] / "README.md"


async def test_the_python_example_runs(capsys: Any) -> None:
    code = re.search(r"<!-- tested by .*? -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(code[1], namespace)  # the point of the test is to run what the README says
    async with serving() as (_, port):
        await namespace["main"](f"iser://127.0.0.1:{port}/{TARGET}/0")
    printed = capsys.readouterr().out
    assert "bytes_copied=0" in printed
    assert "by_strategy=Counter({'indirect':" in printed
    assert "fallbacks=Counter()" in printed
