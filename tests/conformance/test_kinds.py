"""Tests of tests.conformance.kinds."""

from __future__ import annotations

import tomllib
from pathlib import Path

from target.config import Config
from tests.conformance.kinds import KINDS, configuration, places
from tests.conformance.verdict import Place


def test_the_configuration_is_one_that_the_target_takes_with_a_lun_of_each_kind() -> None:
    config = Config.model_validate(tomllib.loads(configuration()), context=Path.cwd())
    (target,) = config.target
    assert [lun.id for lun in target.lun] == list(range(len(KINDS)))
    assert [(lun.removable, lun.read_only) for lun in target.lun[:3]] == [(False, False), (True, False), (False, True)]
    assert len(config.portal) == max(kind.paths for kind in KINDS) == 2


def test_each_kind_takes_the_tests_that_are_for_it() -> None:
    found = places(["Read10.Simple", "Sanitize.Reset", "ReadOnly.ReadOnlySBC", "MultipathIO.Simple"])
    assert Place("fixed", "Sanitize.Reset") in found
    assert Place("removable", "Sanitize.Reset") not in found
    assert [place for place in found if place.kind in {"read-only", "two paths"}] == [
        Place("read-only", "ReadOnly.ReadOnlySBC"),
        Place("two paths", "MultipathIO.Simple"),
    ]
