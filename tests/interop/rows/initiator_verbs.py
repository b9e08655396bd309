"""Our initiator over verbs, in the guest, with our target, LIO and tgt, over rxe and over siw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import ClassVar

import pytest

from tests.interop.guest_verbs import Guest
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.guest import GUEST_IWARP, GUEST_ROCE, GuestTarget
from tests.interop.peers.lio import Lio
from tests.interop.peers.ours import OurTarget
from tests.interop.peers.tgt import Tgt
from tests.interop.recorder import Notes, NotOffered, feature
from tests.lab import HOST, Machine
from tests.lab.build import PROJECT

_SECONDS = 220.0
_ADDRESSES = {Fabric.IWARP: GUEST_IWARP, Fabric.ROCE: GUEST_ROCE}
Outcomes = dict[str, tuple[str, str]]

#: The same list as the guest works through.
_FEATURES = [name for name, _ in Guest.features(Guest.__new__(Guest))]


def _played(lab: Machine, url: str, settle: float) -> Outcomes:
    """What each feature came to."""
    command = f"{lab.build.python} -m tests.interop.guest_verbs '{url}' {settle}"
    result = lab.run(f"cd {PROJECT} && exec {command}", seconds=_SECONDS, check=False)
    outcomes = {}
    for line in result.out.splitlines():
        name, verdict, note = json.loads(line)
        outcomes[name] = verdict, note
    if not outcomes:
        result.checked()
    return outcomes


class _VerbsRow:
    """A row: the guest plays all of it once, each test reads its cell."""

    row: ClassVar[Row]

    @pytest.mark.parametrize("which", [pytest.param(name, marks=feature(name)) for name in _FEATURES])
    def test_feature(self, outcomes: Outcomes, which: Feature, notes: Notes) -> None:
        verdict, note = outcomes.get(which.value, ("fail", "the guest did not come this far"))
        if verdict == "not offered":
            raise NotOffered(note)
        assert verdict == "pass", note
        if note:
            notes.add(note)


class _WithOurs(_VerbsRow):
    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls, lab: Machine) -> Iterator[Outcomes]:
        """Our target beside it in the guest."""
        target = GuestTarget(lab, _ADDRESSES[cls.row.fabric], 3270 + list(Fabric).index(cls.row.fabric))
        target.start()
        yield _played(lab, f"iser://{target.inside}/{target.name}/0", 0)
        target.stop()


class _WithLio(_VerbsRow):
    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls, lab: Machine, lio: Lio) -> Outcomes:
        """LIO."""
        url = f"iser://{_ADDRESSES[cls.row.fabric]}:{lio.port}/{lio.name}/{lio.lun}"
        return _played(lab, url, lio.settle_seconds)


class _WithTgt(_VerbsRow):
    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls, lab: Machine, tgt: Tgt) -> Outcomes:
        """tgt, which knows our initiator by name."""
        options = "&".join(f"{name}={value}" for name, value in tgt.options.items())
        url = f"iser://{_ADDRESSES[cls.row.fabric]}:{tgt.port}/{tgt.name}/{tgt.lun}?{options}"
        return _played(lab, url, tgt.settle_seconds)


class TestOursOverRoce(_WithOurs):
    row = Row("initiator, verbs", "our target, verbs", Fabric.ROCE)


class TestOursOverIwarp(_WithOurs):
    row = Row("initiator, verbs", "our target, verbs", Fabric.IWARP)


class TestLioOverRoce(_WithLio):
    row = Row("initiator, verbs", "LIO ib_isert", Fabric.ROCE)


class TestLioOverIwarp(_WithLio):
    row = Row("initiator, verbs", "LIO ib_isert", Fabric.IWARP)


class TestTgtOverRoce(_WithTgt):
    row = Row("initiator, verbs", "tgt iser", Fabric.ROCE)


class TestTgtOverIwarp(_WithTgt):
    row = Row("initiator, verbs", "tgt iser", Fabric.IWARP)


class TestSoftiwarp(_VerbsRow):
    """Between our two providers: verbs on siw in the guest, the embedded RNIC on this machine."""

    row = Row("initiator, verbs", "our target, softiwarp", Fabric.IWARP)

    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls, lab: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
        """Our target on this machine."""
        lun = f'backend = "memory"\nsize = {128 << 20}'
        target = OurTarget(tmp_path_factory.mktemp("soft"), "iqn.2026-11.lab:soft", lun)
        target.start()
        yield _played(lab, f"iser://{HOST}:{target.port}/{target.name}/0", 0)
        target.kill()
