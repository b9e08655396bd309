"""Held results of copies."""

from __future__ import annotations

from target.scsi.copystate import MAX_HELD, CopyResults, CopyStatus


def test_results_belong_to_a_port_and_are_bounded() -> None:
    results = CopyResults()
    status = CopyStatus(True, 1, 512)
    results.put("a", 1, status)
    results.put("b", 1, CopyStatus(False, 0, 0))
    assert results.get("a", 1) == status
    assert results.get("a", 2) is None
    results.forget("a")
    assert results.get("a", 1) is None
    assert results.get("b", 1) == (False, 0, 0)
    for identifier in range(MAX_HELD):
        results.put("c", identifier, status)
    assert results.get("b", 1) is None  # the oldest
    assert results.get("c", 0) == status
    results.clear()
    assert results.get("c", 0) is None
