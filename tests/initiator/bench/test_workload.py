from __future__ import annotations

import pytest

from initiator.bench.workload import MIX_LISTS, VERIFIED, VerificationError, Workload
from iser.sg import SgList


@pytest.mark.parametrize("shape", ["S0", "S4", "S8", "S12"])
def test_a_wrong_byte_in_the_list_or_beside_it_is_found(shape: str) -> None:
    workload = Workload(shape, 16384, 3, 1)
    assert len(workload.lists) == 3
    assert len(workload.data) == VERIFIED
    workload.guard(1)
    workload.lists[1].scatter(memoryview(workload.data[1]))
    workload.check_list(1, "it")
    part = workload.parts[1]
    part[len(part) - 1] ^= 1
    with pytest.raises(VerificationError, match="it: the list"):
        workload.check_list(1, "it")
    stored = SgList.of(workload.data[1], writable=False)
    workload.check_stored(1, stored.views, "it")
    with pytest.raises(VerificationError, match="it: what was stored"):
        workload.check_stored(0, stored.views, "it")


def test_what_a_list_looks_like() -> None:
    about = Workload("S12", 16384, 1, 1).describe()
    assert about["flags"] == ["OVERLAP"]
    assert Workload("S4", 65536, 1, 1).describe()["class"] == "SECTOR_GAPPY"


def test_workers_share_lists_when_memory_would_run_out() -> None:
    assert len(Workload("S8", 1 << 20, 128, 1).lists) < 128
    assert len(Workload("Smix(0.1)", 65536, 1, 1).lists) == MIX_LISTS


def test_data_depends_on_the_seed_alone() -> None:
    assert Workload("S8", 4096, 2, 1).digest == Workload("S8", 4096, 2, 1).digest
    assert Workload("S8", 4096, 2, 1).digest != Workload("S8", 4096, 2, 2).digest
