"""Plain iSCSI on this machine's loopback: our target with libiscsi's tools and qemu, our initiator with tgt."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

import initiator
from initiator.lun import Lun
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.recorder import Notes, feature

_NAME: Final = "iqn.2026-11.tcp:disk"
_SIZE: Final = 64 << 20
_USER, _SECRET = "alice", "alice's-own-secret"
_TARGET_USER, _TARGET_SECRET = "storage", "the-target's-secret"
_CONFIG: Final = f"""
[portal.open]
listen = "iscsi://127.0.0.1:0"
[chap.{_USER}]
secret_env = "USER_SECRET"
[chap.{_TARGET_USER}]
secret_env = "TARGET_SECRET"
[[target]]
name = "{_NAME}"
[[target.lun]]
id = 0
backend = "memory"
size = {_SIZE}
[[target]]
name = "{_NAME}.guarded"
[[target.lun]]
id = 0
backend = "file"
path = "disk.img"
size = {_SIZE}
[[target.acl]]
initiator = "*"
chap = ["{_USER}"]
mutual = "{_TARGET_USER}"
"""


def _needs(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _run(*command: str, **environment: str) -> str:
    """What a tool says; AssertionError with its last words when it fails."""
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment, errors="replace"
    )
    assert result.returncode == 0, (result.stderr or result.stdout).strip()[-300:]
    return result.stdout


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our target: where it listens."""
    folder = tmp_path_factory.mktemp("tcp")
    (folder / "target.toml").write_text(_CONFIG)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "target.cli", "serve", "target.toml"],
            cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True,
            env=os.environ | {"USER_SECRET": _SECRET, "TARGET_SECRET": _TARGET_SECRET, "PYTHONPATH": str(Path.cwd())},
        )  # fmt: skip
    assert process.stdout
    yield process.stdout.readline().removeprefix("listening iscsi://").strip()
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()
    assert "Traceback" not in (folder / "log").read_text()


class TestLibiscsi:
    """Our target with the tools of libiscsi."""

    row: ClassVar = Row("target", "libiscsi", Fabric.TCP)

    @pytest.fixture(autouse=True)
    def _tools(self) -> None:
        _needs("iscsi-ls", "iscsi-inq", "iscsi-perf", "iscsi-test-cu", "iscsi-readcapacity16")

    @feature(Feature.DISCOVERY)
    def test_discovery(self, portal: str) -> None:
        assert f"Target:{_NAME} Portal:{portal},1" in _run("iscsi-ls", f"iscsi://{portal}")

    @feature(Feature.CAPACITY)
    def test_capacity(self, portal: str) -> None:
        assert f"Total size:{_SIZE}" in _run("iscsi-readcapacity16", f"iscsi://{portal}/{_NAME}/0")

    @feature(Feature.CHAP)
    def test_chap_both_ways(self, portal: str, notes: Notes) -> None:
        place = f"{_USER}%{_SECRET}@{portal}/{_NAME}.guarded/0"
        both = f"iscsi://{place}?target_user={_TARGET_USER}&target_password={_TARGET_SECRET}"
        assert "DIRECT_ACCESS" in _run("iscsi-inq", f"iscsi://{place}")
        assert "DIRECT_ACCESS" in _run("iscsi-inq", both)
        for bad in (f"iscsi://{portal}/{_NAME}.guarded/0", f"iscsi://{place.replace(_SECRET, 'no' * 8)}", both + "x"):
            with pytest.raises(AssertionError, match=r"[Aa]uthentication"):
                _run("iscsi-inq", bad)
        notes.add("MD5; a wrong secret of either side is refused")

    @feature(Feature.QUEUE_DEPTH)
    def test_queue_depth_32(self, portal: str) -> None:
        said = subprocess.run(
            ["iscsi-perf", "-m", "32", "-b", "8", "-t", "2", "-r", f"iscsi://{portal}/{_NAME}/0"],
            capture_output=True, timeout=30, check=False,
        ).stdout.decode(errors="replace")  # fmt: skip
        assert "in_flight 32" in said

    @pytest.mark.parametrize(
        "suite",
        [
            pytest.param("iSCSITMF.AbortTaskSimpleAsync", marks=feature(Feature.ABORT_TASK)),
            pytest.param("iSCSIdatasn", marks=feature(Feature.SIZES)),
            pytest.param("iSCSIcmdsn", marks=feature(Feature.SIZES)),
        ],
    )
    def test_its_own_tests(self, portal: str, suite: str) -> None:
        said = _run("iscsi-test-cu", "--dataloss", f"--test=iSCSI.{suite}", f"iscsi://{portal}/{_NAME}/0")
        assert "had failures" not in said, said[-300:]


class TestQemu:
    """Our target with qemu's block driver."""

    row: ClassVar = Row("target", "qemu", Fabric.TCP)

    @pytest.fixture(autouse=True)
    def _tools(self) -> None:
        _needs("qemu-img", "qemu-io")

    @pytest.mark.parametrize("kind", ["", ".guarded"])
    @feature(Feature.SIZES)
    def test_an_image_there_and_back(self, portal: str, kind: str, tmp_path: Path) -> None:
        login = f"{_USER}%{_SECRET}@" if kind else ""
        url = f"iscsi://{login}{portal}/{_NAME}{kind}/0"
        image = tmp_path / "image"
        image.write_bytes(os.urandom(_SIZE))
        _run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), url)
        _run("qemu-img", "convert", "-f", "raw", "-O", "raw", url, str(tmp_path / "back"))
        assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == hashlib.sha256(image.read_bytes()).digest()

    @feature(Feature.SINGLE)
    def test_patterns(self, portal: str) -> None:
        commands = ("write -P 0x5a 1M 3M", "read -P 0x5a 1M 3M", "write -z 2M 1M", "read -P 0 2M 1M", "discard 1M 1M")
        arguments = [part for command in (*commands, "flush") for part in ("-c", command)]
        assert "failed" not in _run("qemu-io", "-f", "raw", *arguments, f"iscsi://{portal}/{_NAME}/0")


@pytest.fixture(scope="module")
def tgt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """tgt: where it listens.  Target 1 is open, target 2 wants CHAP; LUN 1 is a disk."""
    _needs("tgtd", "tgtadm")
    folder = tmp_path_factory.mktemp("tgt")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    control = str(100 + os.getpid() % 30000)
    daemon = subprocess.Popen(["tgtd", "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"], stderr=-3)

    def admin(*words: str) -> None:
        _run("tgtadm", "-C", control, "--lld", "iscsi", *words)

    try:
        for _ in range(50):
            time.sleep(0.1)
            show = ["tgtadm", "-C", control, "--op", "show", "--mode", "sys"]
            if subprocess.run(show, capture_output=True, check=False).returncode == 0:
                break
        for number, name in (("1", _NAME), ("2", _NAME + ".guarded")):
            disk = folder / number
            disk.touch()
            os.truncate(disk, _SIZE)
            admin("--op", "new", "--mode", "target", "--tid", number, "-T", name)
            admin("--op", "new", "--mode", "logicalunit", "--tid", number, "--lun", "1", "-b", str(disk))
            admin("--op", "bind", "--mode", "target", "--tid", number, "-I", "ALL")
        for user, secret, way in ((_USER, _SECRET, ()), (_TARGET_USER, _TARGET_SECRET, ("--outgoing",))):
            admin("--op", "new", "--mode", "account", "--user", user, "--password", secret)
            admin("--op", "bind", "--mode", "account", "--tid", "2", "--user", user, *way)
        yield f"127.0.0.1:{port}"
    finally:
        daemon.kill()
        daemon.wait()


@asynccontextmanager
async def _lun(portal: str, kind: str = "", **options: Any) -> AsyncIterator[Lun]:
    async with await initiator.connect(f"iscsi://{portal}/{_NAME}{kind}/1", **options) as lun:
        yield lun


async def _there_and_back(lun: Lun, *sizes: int) -> None:
    for size in sizes:
        data = os.urandom(size)
        view = memoryview(data)
        await lun.write(8, [view[:101], view[101:]])
        back = [bytearray(7), bytearray(size - 7)]
        await lun.read_into(8, back)
        assert b"".join(back) == data


class TestTgt:
    """Our initiator with tgt."""

    row: ClassVar = Row("initiator", "tgt", Fabric.TCP)

    @feature(Feature.DISCOVERY)
    async def test_discovery(self, tgt: str) -> None:
        assert _NAME in [record.name for record in await initiator.discover(f"iscsi://{tgt}")]

    @feature(Feature.SIZES)
    @pytest.mark.parametrize("immediate", [False, True])
    async def test_lists(self, tgt: str, immediate: bool) -> None:
        async with _lun(tgt, immediate_data=immediate) as lun:
            await _there_and_back(lun, 512, 4096, 70_144, 1 << 20, 3 << 20)

    @feature(Feature.NOP)
    async def test_nop(self, tgt: str) -> None:
        async with _lun(tgt) as lun:
            assert await lun.session.nop(b"ping") == b"ping"

    @feature(Feature.CHAP)
    async def test_chap_both_ways(self, tgt: str, notes: Notes) -> None:
        login = {"user": _USER, "password": _SECRET, "chap": "md5"}
        both = login | {"target_user": _TARGET_USER, "target_password": _TARGET_SECRET}
        for options in (login, both):
            async with _lun(tgt, ".guarded", **options) as lun:
                await _there_and_back(lun, 512)
        for bad in ({}, login | {"password": "no" * 8}, both | {"target_password": "no" * 8}):
            with pytest.raises(initiator.LoginError):
                async with _lun(tgt, ".guarded", **bad):
                    pass
        notes.add("MD5; tgt numbers SHA-1 as 7, which is SHA-256, so that neither works")
