"""Our initiator over the embedded RNIC, on this machine, with LIO over siw, in the guest."""

from __future__ import annotations

import pytest

from tests.interop.initiator_row import InitiatorRow
from tests.interop.matrix import Fabric, Row
from tests.interop.peers.lio import Lio


class TestLio(InitiatorRow):
    """Features, and the faults of LIO that we work round."""

    row = Row("initiator, softiwarp", "LIO ib_isert", Fabric.IWARP)

    @pytest.fixture
    def peer(self, lio: Lio) -> Lio:
        """Serving."""
        return lio
