"""Tests of target.scsi.sanitizing: progress, as sense data has it."""

from __future__ import annotations

import pytest

from target.scsi.sanitizing import Sanitizing


@pytest.mark.parametrize(("done", "progress"), [(0, 0), (1, 65), (500, 32768), (999, 65470)])
def test_progress_is_of_65536_and_fits_16_bits_until_the_end(done: int, progress: int) -> None:
    assert Sanitizing(1000, done).progress == progress
    assert progress <= 0xFFFF
