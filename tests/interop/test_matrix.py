"""Cells, and how several tests of one cell add up."""

from __future__ import annotations

from tests.interop.matrix import Fabric, Feature, Matrix, Row, Verdict

LIO = Row("initiator, softiwarp", "LIO", Fabric.IWARP)
LIO_ROCE = Row("initiator, softiwarp", "LIO", Fabric.ROCE)
TGT = Row("initiator, softiwarp", "tgt", Fabric.IWARP)


def test_the_worst_of_several_tests_counts_and_notes_are_kept_once() -> None:
    matrix = Matrix()
    for verdict, note in (
        (Verdict.NOT_OFFERED, "says its login"),
        (Verdict.PASS, ""),
        (Verdict.FAIL, "hung up"),
        (Verdict.KNOWN, "known"),
        (Verdict.FAIL, "hung up"),
    ):
        matrix.record(LIO, Feature.NOP, verdict, note)
    cell = matrix.cell(LIO, Feature.NOP)
    assert cell
    assert cell.verdict is Verdict.FAIL
    assert cell.notes == ["says its login", "hung up", "known"]


def test_a_cell_without_a_run_does_not_exist() -> None:
    matrix = Matrix()
    assert matrix.cell(LIO, Feature.LOGIN) is None
    matrix.record(LIO, Feature.LOGIN, Verdict.PASS)
    assert matrix.cell(TGT, Feature.LOGIN) is None
    assert matrix.count(Verdict.PASS) == 1


def test_rows_that_differ_in_the_fabric_share_a_table_in_the_order_of_the_features() -> None:
    matrix = Matrix()
    matrix.record(LIO, Feature.LOGOUT, Verdict.PASS)
    matrix.record(TGT, Feature.LOGIN, Verdict.PASS)
    matrix.record(LIO_ROCE, Feature.DISCOVERY, Verdict.FAIL, "no")
    assert list(matrix.groups().values()) == [[LIO, LIO_ROCE], [TGT]]
    assert matrix.features([LIO, LIO_ROCE]) == [Feature.DISCOVERY, Feature.LOGOUT]


def test_a_second_run_mends_what_failed_and_nothing_else() -> None:
    row = Row("ours", "theirs", Fabric.IWARP)
    first, again = Matrix(), Matrix()
    first.record(row, Feature.LOGIN, Verdict.FAIL, "no answer")
    first.record(row, Feature.NOP, Verdict.PASS, "a note")
    again.record(row, Feature.LOGIN, Verdict.PASS)
    again.record(row, Feature.NOP, Verdict.FAIL, "gone")
    first.amend(again)
    login, ping = first.cell(row, Feature.LOGIN), first.cell(row, Feature.NOP)
    assert login is not None
    assert (login.verdict, login.notes) == (Verdict.PASS, ["failed in the first of two runs: no answer"])
    assert ping is not None
    assert ping.verdict is Verdict.PASS
