"""Tests of tests.benchmark.iscsi_perf: what the tool prints."""

from __future__ import annotations

import pytest

from tests.benchmark.iscsi_perf import read_average

#: As the tool of libiscsi 1.19 prints it.
START = """\
connected to iscsi://127.0.0.1:14901/iqn.x:t/1
capacity is 131072 blocks or 67108864 byte (64 MB)
performing RANDOM READ with 32 parallel requests
FIXED transfer size of 8 blocks (4096 byte)
will run for 2 seconds.

"""
LINE = (
    "\r00:00:01 - lba 26423, iops current 36137 (141 MB/s), iops average 36137 (141 MB/s), in_flight 32, busy 0        "
)
END = "\riops average 38215 (149 MB/s)                                                        \n\nfinished.\n"


def test_the_average_is_that_of_the_whole_run() -> None:
    assert read_average(START + LINE + END) == 38215


@pytest.mark.parametrize("printed", ["", START, START + LINE + "read16 failed with SENSE KEY\n" + END])
def test_a_run_without_an_average_or_with_errors_has_none(printed: str) -> None:
    assert read_average(printed) == 0
