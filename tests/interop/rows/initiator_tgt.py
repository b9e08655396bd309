"""Our initiator over the embedded RNIC, on this machine, with tgt over siw, in the guest."""

from __future__ import annotations

import pytest

from tests.interop.initiator_row import InitiatorRow
from tests.interop.matrix import Fabric, Row
from tests.interop.peers.tgt import Tgt


class TestTgt(InitiatorRow):
    """Features, and the faults of tgt that we work round."""

    row = Row("initiator, softiwarp", "tgt iser", Fabric.IWARP)

    @pytest.fixture
    def peer(self, tgt: Tgt) -> Tgt:
        """Serving."""
        return tgt
