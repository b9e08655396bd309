"""Ceph images: what can be said without a cluster, and the whole contract where ISER_TEST_RBD names an image."""

from __future__ import annotations

import ctypes
import os

import pytest

from iser.errors import BackendError, UsageError
from target.backends import rbd
from target.backends.conformance import check_backend
from target.backends.rbd import RbdBackend, RbdName, parse_rbd


def test_names() -> None:
    assert parse_rbd("rbd:pool/image") == RbdName("pool", "image", None, None, None, {})
    assert parse_rbd("rbd:p/i@s:id=me:conf=/etc/ceph/x.conf:client_mount_timeout=3") == RbdName(
        "p", "i", "s", "me", "/etc/ceph/x.conf", {"client_mount_timeout": "3"}
    )
    for wrong in ("pool/image", "rbd:image", "rbd:a/b/c", "rbd:a/b:option", "rbd:/x"):
        with pytest.raises(UsageError, match="is no image; write 'rbd:POOL/IMAGE'"):
            parse_rbd(wrong)


def test_a_snapshot_is_read_only() -> None:
    with pytest.raises(UsageError, match="is a snapshot; set read_only = true"):
        RbdBackend("rbd:pool/image@snap")


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    rbd._libraries.cache_clear()
    try:
        with pytest.raises(BackendError, match="an rbd LUN needs librbd; install the package librbd1"):
            RbdBackend("rbd:pool/image")
    finally:
        rbd._libraries.cache_clear()


@pytest.mark.skipif("ISER_TEST_RBD" not in os.environ, reason="ISER_TEST_RBD names no image to overwrite")
async def test_it_keeps_the_contract() -> None:
    backend = RbdBackend(os.environ["ISER_TEST_RBD"])
    assert await check_backend(backend) == []
    size = backend.size
    await backend.resize(2 * size)
    assert backend.size == 2 * size
    await backend.resize(size)
    await backend.close()
    await backend.close()
