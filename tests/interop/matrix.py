"""The result of a run: which feature works between which side of ours and which peer, over which fabric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum

__all__ = ["Cell", "Fabric", "Feature", "Matrix", "PeerFault", "Row", "Verdict"]


class Fabric(StrEnum):
    """What carries the row."""

    IWARP = "iWARP (siw)"
    ROCE = "RoCE (rxe)"
    TCP = "TCP (plain iSCSI)"


class Feature(StrEnum):
    """What is tried, in the order of the tables."""

    DISCOVERY = "discovery"
    LOGIN = "login"
    CHAP = "CHAP"
    DIGESTS = "header and data digests"
    CAPACITY = "capacity"
    RESIZE = "online resize"
    SINGLE = "SINGLE lists"
    PAGE_ALIGNED = "PAGE_ALIGNED lists"
    PAGE_VEC = "PAGE_VEC lists"
    SECTOR_GAPPY = "SECTOR_GAPPY lists"
    DWORD_GAPPY = "DWORD_GAPPY lists"
    BYTE_GAPPY = "BYTE_GAPPY lists"
    STRATEGIES = "registration strategies"
    IMMEDIATE_DATA = "immediate data"
    UNSOLICITED_DATA = "unsolicited Data-Out"
    SIZES = "512 B to 8 MiB"
    QUEUE_DEPTH = "queue depth 32"
    REMOTE_INVALIDATION = "remote invalidation"
    RDMA_READ = "RDMA Read"
    RDMA_WRITE = "RDMA Write"
    NOP = "NOP"
    ABORT_TASK = "ABORT TASK"
    ABORT_TASK_SET = "ABORT TASK SET"
    CLEAR_TASK_SET = "CLEAR TASK SET"
    LUN_RESET = "LOGICAL UNIT RESET"
    WARM_RESET = "TARGET WARM RESET"
    COLD_RESET = "TARGET COLD RESET"
    EXT4 = "ext4 made, filled, checked"
    XFS = "xfs made, filled, checked"
    FIO = "fio verify, mixed sizes"
    UNMAP = "blocks given back"
    MULTIPATH = "two portals, dm-multipath"
    LOGOUT = "logout"
    PEER_KILLED = "peer killed mid-I/O"
    RECONNECT = "reconnect"
    PR_REGISTER = "reservations: register, full status"
    PR_TYPES = "reservations: the six types, who reads and writes"
    PR_PREEMPT = "reservations: preempt"
    PR_ABORT = "reservations: preempt and abort"
    PR_CLEAR = "reservations: release, clear"
    PR_FENCE = "reservations: fencing, as fence_scsi does"
    PR_APTPL = "reservations: kept over kill -9 (APTPL)"
    PR_BOTH = "reservations: between TCP and iSER"
    SG_INQUIRY = "INQUIRY and all VPD pages"
    SG_PAGES = "mode and log pages"
    SG_OPCODES = "operation codes, task functions, LUNs"
    SG_PORTS = "target port groups"
    SG_CAPACITY = "capacity, readiness, caches"
    SG_THIN = "UNMAP, WRITE SAME, GET LBA STATUS"
    SG_VERIFY = "VERIFY, WRITE AND VERIFY"
    SG_COMPARE = "COMPARE AND WRITE"
    SG_COPY = "EXTENDED COPY"
    SG_IO = "reads and writes past the block layer"
    SG_RESET = "resets and their unit attentions"
    SG_SANITIZE = "SANITIZE"


class Verdict(Enum):
    """What came out."""

    PASS = "pass"
    KNOWN = "known peer fault"
    FAIL = "fail"
    NOT_OFFERED = "not offered"


_WORST = (Verdict.FAIL, Verdict.KNOWN, Verdict.PASS, Verdict.NOT_OFFERED)


@dataclass(frozen=True, slots=True)
class Row:
    """One of our sides against one peer over one fabric, e.g. ``Row("initiator, softiwarp", "LIO", Fabric.IWARP)``."""

    ours: str
    peer: str
    fabric: Fabric

    @property
    def group(self) -> str:
        """What its table is called: rows that differ in the fabric only share one."""
        return f"{self.ours} with {self.peer}"


@dataclass(slots=True)
class Cell:
    """How a feature of a row came out.  ``notes`` say why it failed, who does not offer it, or how far it went."""

    verdict: Verdict
    notes: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict, note: str) -> None:
        """Another test of the same feature; the worst of them counts."""
        self.verdict = min(self.verdict, verdict, key=_WORST.index)
        if note and note not in self.notes:
            self.notes.append(note)


@dataclass(frozen=True, slots=True)
class PeerFault:
    """A fault of a peer that our code works round, and what the test that shows it found."""

    peer: str
    what: str
    shown: bool
    note: str = ""


class Matrix:
    """All cells, in the order in which they came."""

    def __init__(self) -> None:
        self._cells: dict[Row, dict[Feature, Cell]] = {}
        self.faults: list[PeerFault] = []

    def amend(self, again: Matrix) -> None:
        """Take the cells of a second run for those that failed in this one, and say so."""
        for row, features in again._cells.items():
            for feature, cell in features.items():
                first = self._cells.get(row, {}).get(feature)
                if first is None or first.verdict is Verdict.FAIL:
                    told = [f"failed in the first of two runs: {note}" for note in first.notes] if first else []
                    self._cells.setdefault(row, {})[feature] = Cell(cell.verdict, [*cell.notes, *told])

    def record(self, row: Row, feature: Feature, verdict: Verdict, note: str = "") -> None:
        """The outcome of one test."""
        features = self._cells.setdefault(row, {})
        if feature in features:
            features[feature].add(verdict, note)
        else:
            features[feature] = Cell(verdict, [note] if note else [])

    def cell(self, row: Row, feature: Feature) -> Cell | None:
        """None if nothing has been run."""
        return self._cells.get(row, {}).get(feature)

    def groups(self) -> dict[str, list[Row]]:
        """Rows by the table that they belong to; sorted, since rows that run side by side come in any order."""
        found: dict[str, list[Row]] = {}
        fabrics = list(Fabric)
        for row in sorted(self._cells, key=lambda row: (row.group, fabrics.index(row.fabric))):
            found.setdefault(row.group, []).append(row)
        return found

    def features(self, rows: Iterable[Row]) -> list[Feature]:
        """What was tried in any of ``rows``, in the order of the tables."""
        rows = list(rows)
        return [feature for feature in Feature if any(feature in self._cells[row] for row in rows)]

    def __iter__(self) -> Iterator[tuple[Row, Feature, Cell]]:
        for row, features in self._cells.items():
            for feature, cell in features.items():
                yield row, feature, cell

    def count(self, verdict: Verdict) -> int:
        """How many cells came out so."""
        return sum(cell.verdict is verdict for _, _, cell in self)
