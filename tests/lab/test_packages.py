"""What the lab says on machines that it cannot run on."""

from __future__ import annotations

import os
import platform
import shutil

import pytest

from tests.lab.errors import LabUnavailable
from tests.lab.packages import missing, require_debian, version_of


def test_who_is_not_root_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabUnavailable, match=r"^not root: .*$"):
        require_debian()


def test_another_architecture_or_distribution_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(LabUnavailable, match="aarch64"):
        require_debian()
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LabUnavailable, match="apt-get is missing"):
        require_debian()


def test_a_package_that_does_not_exist_is_missing_and_has_no_version() -> None:
    assert missing(("no-such-package-here",)) == ["no-such-package-here"]
    assert version_of("no-such-package-here") == ""
