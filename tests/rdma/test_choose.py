"""Which provider reaches an address."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from iser.errors import ResourceError, UsageError
from iser.rdma import choose as choose_module
from iser.rdma.choose import check_provider, choose, make_provider, owner_of
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.rdma.verbs import library


@pytest.fixture
def rxe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that owns 192.0.2.1, on a machine where 192.0.2.1 is the way to everything but loopback."""
    (tmp_path / "rxe0").mkdir()
    monkeypatch.setattr(choose_module, "SYSFS", str(tmp_path))
    monkeypatch.setattr(choose_module, "owner_of", lambda family, address: "rxe0" if address[0] == "192.0.2.1" else "")
    monkeypatch.setattr(
        choose_module, "_source_address", lambda host: "127.0.0.1" if host == "localhost" else "192.0.2.1"
    )
    monkeypatch.setattr(library, "load_pyverbs", lambda: None)


async def test_without_a_device_it_is_softiwarp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_module, "SYSFS", str(tmp_path / "none"))
    assert await choose("auto", "192.0.2.7") == "softiwarp"
    assert isinstance(await make_provider("auto", "192.0.2.7", SoftIwarpOptions()), SoftIwarp)


@pytest.mark.usefixtures("rxe")
@pytest.mark.parametrize(
    ("host", "passive", "expected"),
    [
        ("192.0.2.7", False, "verbs"),
        ("localhost", False, "softiwarp"),
        ("192.0.2.1", True, "verbs"),
        ("192.0.2.3", True, "softiwarp"),
        ("127.0.0.1", True, "softiwarp"),
        ("0.0.0.0", True, "verbs"),
        ("", True, "verbs"),
    ],
)
async def test_a_device_serves_the_addresses_that_it_owns(host: str, passive: bool, expected: str) -> None:
    assert await choose("auto", host, passive=passive) == expected


@pytest.mark.usefixtures("rxe")
async def test_who_names_a_provider_gets_it() -> None:
    assert await choose("softiwarp", "192.0.2.7") == "softiwarp"
    assert await choose("verbs", "localhost") == "verbs"


@pytest.mark.usefixtures("rxe")
async def test_a_device_that_cannot_be_used_is_mentioned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise ResourceError("provider verbs needs pyverbs; install it")

    monkeypatch.setattr(library, "load_pyverbs", missing)
    assert await choose("auto", "192.0.2.7") == "softiwarp"
    assert "rxe0 owns the address of 192.0.2.7 but cannot be used: provider verbs needs pyverbs" in caplog.text


def test_a_provider_that_does_not_exist_is_named() -> None:
    assert check_provider("verbs") == "verbs"
    with pytest.raises(UsageError, match=r"provider 'mlx' does not exist; choose one of auto, verbs, softiwarp"):
        check_provider("mlx")


def test_on_a_machine_without_devices_nobody_owns_an_address() -> None:
    # Documentation addresses belong to no machine, whatever devices it has.
    assert owner_of(socket.AF_INET, ("192.0.2.1", 0)) == ""
