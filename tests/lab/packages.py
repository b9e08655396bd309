"""Debian packages of the lab: the tools on this machine, which the guest sees too, and the guest's kernel."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.lab.errors import LabUnavailable

__all__ = ["TOOLS", "download", "install", "kernel_release", "missing", "require_debian", "version_of"]

#: What is used on this machine or, through its root file system, in the guest.
TOOLS: Final = (
    "busybox-static", "cpio", "ddpt", "e2fsprogs", "fio", "gcc", "ibverbs-providers", "ibverbs-utils", "iproute2",
    "kmod", "libiscsi-bin", "libiscsi7", "make", "open-iscsi", "psmisc", "python3", "python3-cffi", "python3-pyverbs",
    "python3-venv", "qemu-block-extra", "qemu-system-x86", "qemu-utils", "rdma-core", "rdmacm-utils", "sg3-utils",
    "tgt", "util-linux", "xfsprogs", "xz-utils",
)  # fmt: skip
_META: Final = "linux-image-amd64"  # depends on the newest kernel
_SECONDS: Final = 900.0  # for one run of the package manager


def require_debian() -> None:
    """Raises LabUnavailable where the lab cannot be built at all."""
    if platform.machine() != "x86_64":
        raise LabUnavailable(f"the lab is for x86_64, and this is {platform.machine()}")
    if shutil.which("apt-get") is None:
        raise LabUnavailable("apt-get is missing: the lab needs Debian 12")
    if os.geteuid() != 0:
        raise LabUnavailable("not root: the lab installs packages and shares the root file system with its guest")


def missing(packages: Sequence[str] = TOOLS) -> list[str]:
    """Those of ``packages`` that are not installed."""
    return [name for name in packages if not version_of(name)]


def version_of(package: str) -> str:
    """The installed version, or ""."""
    if shutil.which("dpkg-query") is None:
        return ""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package]
    state, _, version = subprocess.run(query, capture_output=True, text=True, check=False).stdout.partition(" ")
    return version if state == "installed" else ""


def install(packages: Sequence[str] = TOOLS) -> None:
    """Install what is missing of ``packages``, without starting services.  Raises LabUnavailable."""
    wanted = missing(packages)
    if wanted:
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *wanted)


def kernel_release() -> str:
    """The release of Debian's newest kernel, e.g. ``6.1.0-56-amd64``.  Raises LabUnavailable."""
    for attempt in range(2):
        lines = subprocess.run(["apt-cache", "depends", _META], capture_output=True, text=True, check=False).stdout
        for line in lines.splitlines():
            kind, _, name = line.strip().partition(": ")
            if kind == "Depends" and name.startswith("linux-image-"):
                return name.removeprefix("linux-image-")
        if attempt == 0:
            _apt("update", "-qq")
    raise LabUnavailable(f"the package index does not know {_META}")


def download(packages: Sequence[str], folder: Path) -> list[Path]:
    """Fetch packages into ``folder``, each once.  Raises LabUnavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in packages:
        if not list(folder.glob(f"{name}_*.deb")):
            _apt("download", name, cwd=folder)
        found.append(next(folder.glob(f"{name}_*.deb")))
    return found


def _apt(*arguments: str, cwd: Path | None = None) -> None:
    # RUNLEVEL keeps the packages' scripts from starting the daemons, which the guest runs and this machine does not.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    try:
        done = subprocess.run(
            ["apt-get", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False,
            timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LabUnavailable(f"apt-get {arguments[0]} did not end within {_SECONDS:g} seconds") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no reason given"]
        raise LabUnavailable(f"apt-get {arguments[0]} failed: {lines[0].removeprefix('E: ')}")
