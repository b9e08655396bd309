from __future__ import annotations

import re

import pytest

from initiator import demo
from initiator.shapes import Arena
from iser.sg import SgClass


async def test_the_demonstration_verifies_every_class(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SIZES", (64 << 10,))
    monkeypatch.setattr(demo, "ROUNDS", 1)
    await demo.run()
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[-1]
        == f"verified {2 * len(SgClass) * demo.DEPTH} transfers, {2 * len(SgClass) * demo.DEPTH * 65536:,} bytes"
    )
    for kind in SgClass:
        for strategy in demo.STRATEGIES:
            row = next(line for line in lines if kind.value in line and strategy in line)
            cells = [cell.strip() for cell in re.split("[│|]", row)[1:-1]]
            copied = 0 if strategy == "indirect" else 2 * demo.DEPTH * 65536
            assert cells[2:5] == ["1", "1", f"{copied:,}"]


def test_bytes_that_change_around_the_elements_are_seen() -> None:
    arena = Arena([(100, 50), (3000, 1)])
    arena.fill(demo._UNTOUCHED)
    for view in arena.views:
        view[:] = bytes(len(view))
    assert demo._untouched(arena)
    for place in (0, 99, 150, 2999, 3001, len(arena.memory) - 1):
        arena.memory[place] ^= 1
        assert not demo._untouched(arena)
        arena.memory[place] ^= 1


async def test_a_wrong_byte_fails_the_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SIZES", (64 << 10,))
    monkeypatch.setattr(demo, "ROUNDS", 1)
    monkeypatch.setattr(demo, "STRATEGIES", ("bounce",))
    digests = iter(range(1_000_000))
    monkeypatch.setattr(demo, "_digest", lambda _: next(digests))
    with pytest.raises(demo.VerificationError, match="lists came back changed"):
        await demo.run()
