"""Ceph images: what can be said without a cluster, and the whole contract on a real one where Ceph is installed."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator

import pytest

from iser.errors import BackendError, UsageError
from target.backends import rbd
from target.backends.conformance import check_backend
from target.backends.rbd import RbdBackend, RbdName, parse_rbd
from tests.target.backends.ceph import OneNodeCeph, missing_programs


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


# Two clusters at once would be one too many for a small machine.
one_cluster = pytest.mark.xdist_group("ceph")


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNodeCeph]:
    """A real cluster."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"Ceph is not installed: no {missing}")
    cluster = OneNodeCeph(tmp_path_factory.mktemp("ceph"))
    try:
        cluster.__enter__()
    except (TimeoutError, subprocess.SubprocessError) as why:
        pytest.skip(f"Ceph does not start on this machine: {why}")
    try:
        yield cluster
    finally:
        cluster.__exit__(None, None, None)


@one_cluster
@pytest.mark.timeout(120)
async def test_it_keeps_the_contract_on_a_real_cluster(ceph: OneNodeCeph) -> None:
    ceph.run("rbd", "create", "rbd/disk", "--size", "8M")
    backend = RbdBackend(f"rbd:rbd/disk:conf={ceph.conf}")
    assert await check_backend(backend) == []
    assert await backend.extents(0, 8 << 20, 9) == [(4 << 20, True), (4 << 20, False)]  # by objects
    await backend.discard(0, 8 << 20)
    assert await backend.extents(0, 8 << 20, 9) == [(8 << 20, False)]
    await backend.resize(16 << 20)
    assert "16 MiB" in ceph.run("rbd", "info", "rbd/disk")
    with pytest.raises(UsageError, match="not a positive multiple"):
        await backend.resize(1000)
    ceph.run("rbd", "resize", "rbd/disk", "--size", "32M")
    await backend.resize(None)
    assert backend.size == 32 << 20
    await backend.close()
    await backend.close()


@one_cluster
@pytest.mark.timeout(120)
async def test_snapshots_and_what_does_not_fit(ceph: OneNodeCeph) -> None:
    ceph.run("rbd", "create", "rbd/other", "--size", "1M")
    uri = f"rbd:rbd/other:conf={ceph.conf}"
    backend = RbdBackend(uri)
    await backend.writev(0, [memoryview(b"old")], True)
    ceph.run("rbd", "snap", "create", "rbd/other@then")
    await backend.writev(0, [memoryview(b"new")], True)
    then = RbdBackend(f"rbd:rbd/other@then:conf={ceph.conf}", read_only=True)
    seen = bytearray(3)
    await then.readv(0, [memoryview(seen)])
    assert seen == b"old"
    await then.close()
    await backend.close()
    with pytest.raises(UsageError, match="less than the size"):
        RbdBackend(uri, 2 << 20)
    for wrong, what in (("rbd/none", "cannot be opened: No such file"), ("none/other", "no pool none")):
        with pytest.raises(BackendError, match=what):
            RbdBackend(f"rbd:{wrong}:conf={ceph.conf}")
    with pytest.raises(BackendError, match="cannot read /nowhere"):
        RbdBackend("rbd:rbd/other:conf=/nowhere")
    with pytest.raises(BackendError, match="no option zzz"):
        RbdBackend(f"{uri}:zzz=1")
