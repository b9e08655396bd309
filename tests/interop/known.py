"""Faults of peers that make a cell fail: a run with no others is good.

Each has its reason, and goes when the peer's newer version does not need it.
"""

from __future__ import annotations

from typing import Final

from tests.interop.matrix import Fabric, Feature, Row

__all__ = ["KNOWN_FAULTS", "known_fault"]

_LIO_HANGS: Final = (
    "over siw, disabling its portal group may hang in target_wait_for_cmds: commands that the end of the connection"
    " caught in the middle of their RDMA are never done"
)
_TEST_TOOL: Final = "iscsi-test-cu, which is what sends it, crashes over iSER when it cancels a task"

_LIBISCSI: Final = {
    Feature.IMMEDIATE_DATA: (
        "it announces immediate data in the command's header and sends none; set immediate_data = false for it"
    ),
    Feature.ABORT_TASK: _TEST_TOOL,
    Feature.LUN_RESET: _TEST_TOOL,
}

#: (peer, feature, fabric) -> what the peer does wrong.
KNOWN_FAULTS: Final[dict[tuple[str, Feature, Fabric], str]] = {
    ("LIO ib_isert", Feature.PEER_KILLED, Fabric.IWARP): _LIO_HANGS,
    **{
        ("libiscsi 1.19 iser", feature, fabric): why
        for feature, why in _LIBISCSI.items()
        for fabric in (Fabric.IWARP, Fabric.ROCE)
    },
}


def known_fault(row: Row, feature: Feature) -> str | None:
    """Why this cell may fail, or None."""
    return KNOWN_FAULTS.get((row.peer, feature, row.fabric))
