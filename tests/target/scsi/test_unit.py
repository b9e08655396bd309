"""Logical units: identity, limits, errors of the backend."""

from __future__ import annotations

import pytest

from iser.errors import BackendError, UsageError
from target.backends.memory import MemoryBackend
from target.scsi import Identity, complete_error
from tests.target.scsi.bench import NAME, codes_of, unit


def test_identities_are_stable_and_apart() -> None:
    assert Identity.derive(NAME, 0) == Identity.derive(NAME, 0)
    all_of_them = [Identity.derive(f"{NAME}{target}", lun) for target in range(20) for lun in range(20)]
    assert len({identity.serial for identity in all_of_them}) == 400
    assert len({identity.naa for identity in all_of_them}) == 400
    assert all(identity.naa >> 60 == 3 for identity in all_of_them)


def test_a_given_serial_decides() -> None:
    one, other = Identity.derive("iqn.2026-11.a:x", 0, "S1"), Identity.derive("iqn.2026-11.b:y", 3, "S1", "DISK")
    assert (one.serial, one.naa) == (other.serial, other.naa) == ("S1", one.naa)
    assert other.product == "DISK"


def test_block_sizes() -> None:
    assert unit().block_size == 512
    large = unit(MemoryBackend(1 << 20, block_size=4096))
    assert (large.block_size, large.blocks, large.max_blocks) == (4096, 256, 128)
    with pytest.raises(UsageError, match="use 512 or 4096"):
        unit(MemoryBackend(1 << 20, block_size=1024))


@pytest.mark.parametrize(
    ("error", "write", "expected"),
    [
        (BackendError("x"), False, (3, 0x11, 0)),
        (BackendError("x"), True, (3, 0x0C, 0)),
        (BackendError("x", space=True), True, (3, 0x0C, 0)),
        (BackendError("x", medium=False), False, (4, 0x44, 0)),
        (BackendError("x", medium=False), True, (4, 0x44, 0)),
    ],
)
def test_backend_errors_become_sense(error: BackendError, write: bool, expected: tuple[int, int, int]) -> None:
    assert codes_of(complete_error(error, write)) == expected
    assert codes_of(unit(descriptor_sense=True).complete_error(error, write)) == expected
    assert complete_error(error, write).sense[0] == 0x70
    assert unit(descriptor_sense=True).complete_error(error, write).sense[0] == 0x72
