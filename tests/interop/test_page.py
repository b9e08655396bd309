"""The page, as a reader sees it."""

from __future__ import annotations

from tests.interop.matrix import Feature, Matrix, PeerFault, Verdict
from tests.interop.page import render
from tests.interop.test_matrix import LIO, LIO_ROCE, TGT


def page(matrix: Matrix) -> str:
    """Rendered with little around it."""
    return render(matrix, {"Date": "2026-11-21", "Kernel": "6.1"}, 90)


def test_a_table_for_each_peer_with_a_column_for_each_fabric() -> None:
    matrix = Matrix()
    matrix.record(LIO, Feature.LOGIN, Verdict.PASS)
    matrix.record(LIO_ROCE, Feature.LOGIN, Verdict.FAIL, "ConnectionLost: gone")
    matrix.record(LIO, Feature.NOP, Verdict.NOT_OFFERED, "says LIO")
    matrix.record(TGT, Feature.NOP, Verdict.KNOWN, "tgt is wrong")
    text = page(matrix)
    assert "## Our initiator, softiwarp with LIO" in text
    assert "| feature | iWARP (siw) | RoCE (rxe) | notes |" in text
    assert "| login | pass | **FAIL** | RoCE (rxe): ConnectionLost: gone |" in text
    assert "| NOP | not offered | - | iWARP (siw): says LIO |" in text
    assert "| NOP | **fail** (peer's fault) | tgt is wrong |" in text
    assert "* Date: 2026-11-21" in text
    assert "1.5 minutes; 1 pass, 1 known peer fault, 1 fail, 1 not offered" in text


def test_what_all_fabrics_say_is_said_once_and_no_note_breaks_a_table() -> None:
    matrix = Matrix()
    for row in (LIO, LIO_ROCE):
        matrix.record(row, Feature.NOP, Verdict.PASS, "echoes a|b\nand more")
    assert "| NOP | pass | pass | echoes a\\|b and more |" in page(matrix)


def test_faults_of_peers_have_their_own_table() -> None:
    matrix = Matrix()
    matrix.record(LIO, Feature.NOP, Verdict.PASS)
    assert "Faults" not in page(matrix)
    matrix.faults.append(PeerFault("tgt", "hangs up", shown=False))
    matrix.faults.append(PeerFault("LIO", "loops", shown=True, note="3 of 4"))
    text = page(matrix)
    assert "| tgt | hangs up | not this time |  |" in text
    assert "| LIO | loops | yes | 3 of 4 |" in text
